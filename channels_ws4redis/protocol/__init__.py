"""What is said and what it means: names, messages, histories. No I/O and no settings."""
