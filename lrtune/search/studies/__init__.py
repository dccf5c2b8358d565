"""Optuna's side: a job's space in its coordinates (`space.py`, `axes.py`, `draw.py`), its studies and samplers."""
