"""The demo's template tags."""
