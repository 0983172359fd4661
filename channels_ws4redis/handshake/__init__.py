"""Finding out who a socket is and what it may use."""
