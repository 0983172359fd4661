"""Strangers who send a server whatever they please, and what has to hold meanwhile.

``WS4REDIS_TEST_FUZZ=150 pytest tests/test_fuzz.py -k strangers`` is the long form: so many seconds
on each server. ``WS4REDIS_TEST_FUZZ_SEED`` chooses other strangers; the same seed makes the same
ones.
"""
