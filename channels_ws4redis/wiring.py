"""What Django tells of logins, users and auth groups, and what follows for sockets. Private."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import channel_layers
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.names import AT_LOGIN, MEMBER_OF
from channels_ws4redis.protocol.orders import Action
from channels_ws4redis.publish.ordering import make_orders, send_after_commit

#: What is saved of a user at each login, and changes nothing for sockets.
_LOGIN_FIELDS = {"last_login"}


def connect() -> None:
    """Listen to Django.

    Nobody listens for the deletion of sessions: Django deletes rows in one go only where nobody
    does, and else ``clearsessions`` would load each of millions. They are found by `sweeping`.
    """
    user_logged_in.connect(store_groups_in_session, dispatch_uid="ws4redis.memberof")
    user_logged_out.connect(on_logout, dispatch_uid="ws4redis.logout")
    user_logged_in.connect(on_login, dispatch_uid="ws4redis.login")
    user_model = get_user_model()
    for model in _all_kinds_of(user_model):
        post_save.connect(on_user_saved, model, dispatch_uid="ws4redis.user_saved")
        post_delete.connect(on_user_deleted, model, dispatch_uid="ws4redis.user_deleted")
    if hasattr(user_model, "groups"):
        members = user_model.groups.through
        m2m_changed.connect(on_groups_changed, members, dispatch_uid="ws4redis.groups")
        for model in _all_kinds_of(user_model.groups.rel.model):
            for signal in (post_save, post_delete):
                signal.connect(on_group_changed, model, dispatch_uid="ws4redis.group")


def _all_kinds_of(model: type[Model]) -> list[type[Model]]:
    """Return a model, its proxies, and those that extend it: each sends signals for itself.

    A receiver for all models would take from Django the fast way to delete.
    """
    return [each for each in apps.get_models() if issubclass(each, model)]


def store_groups_in_session(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
    """Write the names of a user's auth groups into the session, where sockets look for them.

    The application may write other names there: a publisher reaches any of them by ``groups=``.
    Nothing is written for a user model without groups, nor at a login without a session.
    """
    session = getattr(request, "session", None)
    if session is not None and hasattr(user, "groups"):
        session[MEMBER_OF] = session[AT_LOGIN] = [group.name for group in user.groups.all()]


def _give(cause: str, action: Action, **chosen: Any) -> None:
    """Give an order once it is committed, unless the project has switched the cause off."""
    # A process without a channel layer has no sockets, and no way to those of others.
    if cause in settings.WS4REDIS_REVOKE_ON and channel_layers.configs:
        send_after_commit(make_orders(action, **chosen))


def on_logout(sender: Any, request: Any = None, **kwargs: Any) -> None:
    """Close the sockets of a session that is logged out.

    Django says so before it flushes the session. A socket that connects in between would find the
    user still logged in. So the order is given once the session is gone.
    """
    session = getattr(request, "session", None)
    key = getattr(session, "session_key", None)
    if key:
        _after_flush(session, lambda: _give("logout", Action.DISCONNECT, sessions=[key]))


def _after_flush(session: Any, work: Callable[[], None]) -> None:
    flush: Callable[[], None] = session.flush
    aflush: Callable[[], Awaitable[None]] | None = getattr(session, "aflush", None)

    def flush_and_work() -> None:
        flush()
        work()

    session.flush = flush_and_work
    if aflush is None:
        return  # Django before 5.1

    async def aflush_and_work() -> None:
        await aflush()
        await sync_to_async(work)()

    session.aflush = aflush_and_work


def on_login(sender: Any, request: Any = None, **kwargs: Any) -> None:
    """Have the sockets of the session come back that has another key since the login."""
    session = getattr(request, "session", None)
    before = getattr(request, "COOKIES", {}).get(settings.SESSION_COOKIE_NAME)
    if session is not None and before and before != session.session_key:
        _give("login", Action.DISCONNECT, sessions=[before], code=codes.TRY_AGAIN_LATER)


def on_user_saved(
    sender: Any, instance: Any, created: bool, update_fields: Any = None, **kwargs: Any
) -> None:
    """Look at a user's sockets again: the user may be deactivated, or have another password."""
    if not created and (update_fields is None or not _LOGIN_FIELDS.issuperset(update_fields)):
        _give("user", Action.REFRESH, users=[instance])


def on_user_deleted(sender: Any, instance: Any, **kwargs: Any) -> None:
    """Close the sockets of a user who is no more."""
    _give("user", Action.DISCONNECT, users=[instance])


def on_group_changed(sender: Any, instance: Any, created: bool = False, **kwargs: Any) -> None:
    """Look at the sockets of an auth group again that is deleted, or may have another name now."""
    if not created:
        _give("groups", Action.REFRESH, groups=[instance])


def on_groups_changed(
    sender: Any, instance: Any, action: str, reverse: bool, pk_set: Any = None, **kwargs: Any
) -> None:
    """Look at sockets again when their users have joined or left auth groups, from either side."""
    has_changed = action in {"post_add", "post_remove"} and pk_set
    if not has_changed and action != "post_clear":
        return
    if not reverse:
        _give("groups", Action.REFRESH, users=[instance])
    elif has_changed:
        model = get_user_model()
        _give("groups", Action.REFRESH, users=[model(pk=pk) for pk in pk_set])
    else:  # nobody knows any more who they were, but for the sockets
        _give("groups", Action.REFRESH, groups=[instance])
