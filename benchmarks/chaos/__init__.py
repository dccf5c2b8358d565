"""Faults drawn from a seed against the whole service at work: `python -m benchmarks.chaos` (`make chaos`)."""
