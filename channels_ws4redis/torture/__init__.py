"""The torture test: clients that count every message while everything around them fails."""
