"""How Django code publishes: what its arguments mean, and when and what is published. Private."""
