"""Benchmarks of this package beside its rivals: ``python -m tests.benchmarks``."""
