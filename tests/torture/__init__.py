"""Publishers, hundreds of clients and a fault injector, and an oracle that counts every message."""
