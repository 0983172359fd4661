"""No models; legacy code imports the receiver of the login signal from here."""

from channels_ws4redis.wiring import store_groups_in_session

__all__ = ["store_groups_in_session"]
