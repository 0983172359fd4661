"""A hook that asks the database for the user's auth groups, as the manual has it."""

from channels_ws4redis.protocol.names import MEMBER_OF


def allowed_channels(request, channels):
    """Grant all that was asked for, with the groups of this moment."""
    if request.session is not None:
        groups = request.user.groups.values_list("name", flat=True)
        request.session[MEMBER_OF] = list(groups)
    return channels
