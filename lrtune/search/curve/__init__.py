"""A job as the curve engine takes it: `encode.py` its trials, `sampler.py` its candidates, `pruner.py` the verdict."""
