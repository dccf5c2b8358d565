"""What a job's trials say: which configuration is the answer, why, and how it reads in words. Pure functions."""
