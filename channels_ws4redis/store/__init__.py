"""Redis: clients, scripts, and the connection on which messages are heard."""
