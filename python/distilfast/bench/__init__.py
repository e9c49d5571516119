"""Ours against what is installed beside us, in one run on one machine: ratios, medians, JSON."""
