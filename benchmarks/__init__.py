"""Benchmarks: one module a promise, each printing the numbers that the docs may quote."""
