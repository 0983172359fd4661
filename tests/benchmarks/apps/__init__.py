"""The applications and settings that the contenders serve."""
