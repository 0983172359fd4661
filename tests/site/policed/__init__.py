"""An app with policies, for the tests of sockets under them."""
