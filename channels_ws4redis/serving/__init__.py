"""One socket from its handshake to its end: the parts of the consumer. Private."""
