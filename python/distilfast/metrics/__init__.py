"""Scores: of every head by its own measures, beside the teacher's; held-out text; what is kept of the teacher.

Functions of predictions and labels, which know nothing of models: `classification`, `scores` (numbers and rankings),
`tokens`, `questions`, `vectors`. `kept` compares a student's score with its teacher's; `held_out` runs models on text.
"""
