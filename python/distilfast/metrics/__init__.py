"""Scores: held-out text, answers."""
