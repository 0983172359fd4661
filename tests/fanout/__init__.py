"""Tests of the modules in the folder of the same name."""
