"""Tests of the manual: every page is followed as a reader follows it."""
