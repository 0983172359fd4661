"""Sessions in a database that answers in 50 ms."""

import time

from django.contrib.sessions.backends.db import SessionStore as DatabaseStore


class SessionStore(DatabaseStore):
    """As slow for a key that does not exist."""

    def load(self):
        """Take one's time."""
        time.sleep(0.05)
        return super().load()
