"""The management commands of the package, and what they do."""
