"""No models; the place where legacy code imports the login receiver from."""

from channels_ws4redis.handshake.receivers import store_groups_in_session

__all__ = ["store_groups_in_session"]
