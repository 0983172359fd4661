"""Whether sockets may be what they were, found out for many at once."""

from __future__ import annotations

from contextvars import Context
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.contrib.auth import login
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, GroupManager, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from channels_ws4redis.handshake.facts import Claim, claim_of, still_true
from channels_ws4redis.handshake.identity import marks_of
from channels_ws4redis.handshake.policies import NO_OPTIONS, Policy, register
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.handshake.sessions import authenticate
from channels_ws4redis.protocol.names import MEMBER_OF
from tests.site.of_one_site import site

pytestmark = pytest.mark.django_db

BACKEND = "django.contrib.auth.backends.ModelBackend"

#: Those of Django's engines that can be asked for many sessions at once, and those that cannot.
ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


@pytest.fixture(params=ENGINES)
def engine(request, settings, tmp_path) -> str:
    """Each of Django's session engines."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()
    name: str = request.param
    return name


def session_of(user: User | None = None, backend: str = BACKEND, **data: Any) -> Any:
    """Return a new session, which logs a user in."""
    engine = import_module(settings_now().SESSION_ENGINE)
    http: Any = RequestFactory().get("/")
    http.session = engine.SessionStore()
    http.session["theme"] = "dark"
    if user is not None:
        login(http, user, backend)
    http.session.update(data)
    http.session.save()
    return http.session


def settings_now() -> Any:
    """Return Django's settings."""
    return import_module("django.conf").settings


def claimed(session: Any, groups=(), facility: str = "foo") -> Claim:
    """Return the claim of a socket that has connected with a session."""
    cookie = f"sessionid={session.session_key}".encode()
    scope = {"type": "websocket", "path": f"/ws/{facility}", "headers": [(b"cookie", cookie)]}
    request = WebSocketRequest(scope)
    authenticate(request)
    return claim_of(scope, marks_of(request, "", []), groups, is_stock=True)


def is_true(claim: Claim) -> bool:
    """Tell whether a single claim is true."""
    (found,) = still_true([claim])
    return found


@pytest.fixture
def paul() -> User:
    """Somebody in the auth group staff."""
    user = User.objects.create_user("paul", password="secret")
    user.groups.add(Group.objects.create(name="staff"))
    return user


def test_nothing_has_changed(engine, paul) -> None:
    """For a user, for a visitor with a session and for one without, on every engine."""
    claims = [claimed(session_of(paul), ["staff"]), claimed(session_of())]
    nobody = claimed(SessionStore("made-up"))
    assert claims[0].session
    assert nobody.session == ""
    assert still_true([*claims, nobody]) == [True, True, True]
    assert not any(claim.by_project for claim in claims)


def deactivate(user: User) -> None:
    User.objects.update(is_active=False)


def delete(user: User) -> None:
    leave(user)
    User.objects.filter(pk=user.pk)._raw_delete("default")


def change_password(user: User) -> None:
    User.objects.update(password="!")


def rename(user: User) -> None:
    User.objects.update(username="renamed")


def leave(user: User) -> None:
    User.groups.through.objects.all().delete()


@pytest.mark.parametrize(
    "change", [deactivate, delete, change_password, rename, leave], ids=lambda f: f.__name__
)
def test_what_no_signal_tells(engine, paul, change) -> None:
    """It is found, on every engine; a visitor in the same batch is not concerned."""
    claims = [claimed(session_of(paul), ["staff"]), claimed(session_of())]
    change(paul)
    assert still_true(claims) == [False, True]


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file"], indirect=True)
def test_a_session_that_is_gone(engine, paul) -> None:
    """A user's or a visitor's; the others stay."""
    gone, stays, visitors = session_of(paul), session_of(paul), session_of()
    claims = [claimed(session) for session in (gone, stays, visitors)]
    gone.delete()
    visitors.delete()
    assert still_true(claims) == [False, True, False]


def test_a_session_that_is_too_old(engine, paul, settings) -> None:
    """It counts as gone, from the moment that the engine says so."""
    claim = claimed(session_of(paul))
    if engine == "signed_cookies":
        settings.SESSION_COOKIE_AGE = -1
    elif engine == "db":
        Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    else:
        store = import_module(settings.SESSION_ENGINE).SessionStore(claim.session)
        store.set_expiry(-1)
        store.save()
    assert not is_true(claim)


def test_a_session_that_has_gone_from_the_table_alone(paul, settings) -> None:
    """A page would still find it in the cache, and so does a socket."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
    claim = claimed(session_of(paul))
    Session.objects.all().delete()
    assert is_true(claim)
    cache.clear()
    assert not is_true(claim)


def test_another_list_in_the_session(paul) -> None:
    """The application takes a room away; it stays in the session of somebody else."""
    rooms = {MEMBER_OF: ["room 7", "staff"]}
    session, other = session_of(paul, **rooms), session_of(**rooms)
    claims = [claimed(session, ["room 7", "staff"]), claimed(other, ["room 7", "staff"])]
    assert still_true(claims) == [True, True]
    session[MEMBER_OF] = ["staff"]
    session.save()
    assert still_true(claims) == [False, True]


@pytest.mark.parametrize(("causes", "stays"), [(["groups"], False), ([], True)], ids=str)
def test_a_group_that_counts_as_it_is_listed(paul, settings, causes, stays) -> None:
    """The list of the session counts where auth groups are not followed, as for a new socket."""
    claim = claimed(session_of(paul), ["staff"])
    settings.WS4REDIS_REVOKE_ON = causes
    leave(paul)
    assert is_true(claim) is stays


def test_one_batch_is_a_handful_of_queries(paul) -> None:
    """However many there are: sessions, users, their groups, and names."""
    users = [paul, *(User.objects.create_user(f"user{number}") for number in range(20))]
    claims = [
        claimed(session_of(user, **{MEMBER_OF: ["room", "staff"]}), ["room"]) for user in users
    ]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert still_true(claims) == [True] * len(users)
    assert len(queries) == 4


def test_sessions_of_the_projects_own_kind(paul, settings) -> None:
    """Of them nothing is known for certain."""
    settings.SESSION_ENGINE = "tests.site.slow_sessions"
    assert not is_true(claimed(session_of(paul)))


@pytest.mark.parametrize("engine", ["db", "cached_db"], indirect=True)
def test_an_engine_that_finds_sessions_in_its_own_way(engine, paul, settings, monkeypatch) -> None:
    """Though it loads them as Django's own does, once they are found."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    claim = claimed(session_of(paul))

    class Own(store):  # type: ignore[misc, valid-type] # chosen by the test
        def _get_session_from_db(self):
            return None

    Own.__qualname__ = store.__qualname__  # by which sessions are signed
    monkeypatch.setattr(import_module(settings.SESSION_ENGINE), "SessionStore", Own)
    assert not is_true(claim)


class OwnBackend(ModelBackend):
    """A project's own, which may look at anything."""

    def get_user(self, user_id):
        return super().get_user(user_id)


class LenientBackend(ModelBackend):
    """One that lets everybody in, as `AllowAllUsersModelBackend` does."""

    def user_can_authenticate(self, user):
        return True


def test_a_backend_of_the_projects_own(paul, settings) -> None:
    """Nothing is known for certain; what it only decides of a user is asked of it."""
    own, lenient = (f"{__name__}.{cls.__name__}" for cls in (OwnBackend, LenientBackend))
    settings.AUTHENTICATION_BACKENDS = [own, lenient, BACKEND]
    claims = [claimed(session_of(paul, backend)) for backend in settings.AUTHENTICATION_BACKENDS]
    assert still_true(claims) == [False, True, True]
    deactivate(paul)
    assert still_true(claims) == [False, True, False]
    settings.AUTHENTICATION_BACKENDS = [BACKEND]
    assert still_true(claims) == [False, False, False]


@pytest.mark.parametrize("key", ["no number", None, "4711"], ids=str)
def test_a_session_that_names_no_user(paul, key) -> None:
    """It is nobody's, and no other claim suffers from it."""
    session, other = session_of(paul), session_of(paul)
    claims = [claimed(session), claimed(other)]
    session["_auth_user_id"] = key
    session.save()
    assert still_true(claims) == [False, True]


def test_another_secret_key(paul, settings) -> None:
    """A fallback may verify the session; Django is asked."""
    claim = claimed(session_of(paul))
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another"
    assert not is_true(claim)


def test_the_database_is_away(paul, monkeypatch) -> None:
    """Nothing is said."""
    claim = claimed(session_of(paul))

    def fail(**conditions):
        raise ConnectionError("the database is away")

    monkeypatch.setattr(Session.objects, "filter", fail)
    with pytest.raises(ConnectionError, match="away"):
        is_true(claim)


@pytest.mark.parametrize("setting", ["WS4REDIS_PROCESS_REQUEST", "WS4REDIS_ALLOWED_CHANNELS"])
def test_a_hook_has_a_say(paul, settings, setting) -> None:
    setattr(settings, setting, "tests.site.current_groups.allowed_channels")
    assert claimed(session_of(paul)).by_project


def test_a_policy_has_a_say(paul, no_policies) -> None:
    """On the facilities that it names."""
    register(Policy.of("orders/<int:pk>", lambda request, pk: True, NO_OPTIONS))
    session = session_of(paul)
    assert claimed(session, facility="orders/7").by_project
    assert not claimed(session, facility="orders/x").by_project


def test_a_converter_that_fails_has_a_say(paul, no_policies, monkeypatch) -> None:
    """The admission tells of it, which decides alone."""
    policy = Policy.of("orders/<int:pk>", lambda request, pk: True, NO_OPTIONS)
    register(policy)
    session = session_of(paul)
    monkeypatch.setattr("channels_ws4redis.handshake.facts.match", lambda facility: 1 / 0)
    assert claimed(session, facility="orders/7").by_project


@pytest.mark.parametrize("setting", ["WS4REDIS_PROCESS_REQUEST", None], ids=str)
def test_a_cookie_that_nobody_looks_at_is_no_claim(settings, setting) -> None:
    """Where a hook or a middleware finds the user, the session may be any text of the client's."""
    if setting is not None:
        setattr(settings, setting, "tests.site.current_groups.allowed_channels")
    scope = {"type": "websocket", "path": "/ws/foo", "headers": [(b"cookie", b"sessionid=x")]}
    marks = marks_of(WebSocketRequest({**scope, "user": User(pk=7, username="john")}), "", [])
    scope |= {} if setting else {"user": User(pk=7, username="john")}
    claim = claim_of(scope, marks, [], is_stock=True)
    assert (claim.session, claim.by_project) == ("", True)


@pytest.mark.parametrize("key", ["user", "session"])
def test_a_middleware_has_a_say(key) -> None:
    scope = {"type": "websocket", "path": "/ws/foo", "headers": [], key: None}
    marks = marks_of(WebSocketRequest(scope), "", [])
    assert claim_of(scope, marks, [], is_stock=True).by_project


def test_a_subscriber_has_a_say() -> None:
    scope: dict[str, Any] = {"type": "websocket", "path": "/ws/foo", "headers": []}
    marks = marks_of(WebSocketRequest(scope), "", [])
    assert claim_of(scope, marks, [], is_stock=False).by_project


def test_a_socket_whose_user_nobody_has_looked_for_claims_nothing(paul) -> None:
    """One that hears broadcasts alone."""
    cookie = f"sessionid={session_of(paul).session_key}".encode()
    scope = {"type": "websocket", "path": "/ws/foo", "headers": [(b"cookie", cookie)]}
    marks = marks_of(WebSocketRequest({**scope, "user": lazy()}), "", [])
    assert claim_of(scope, marks, [], is_stock=True).session == ""


def lazy() -> Any:
    """Return a user whom nobody has loaded."""
    functional = import_module("django.utils.functional")
    return functional.SimpleLazyObject(lambda: pytest.fail("it was loaded"))


class Picky(ModelBackend):
    """Fails for one user."""

    def user_can_authenticate(self, user: Any) -> bool:
        """Tell, if it is not that one."""
        if user.get_username() == "mary":
            raise LookupError("nobody knows")
        return super().user_can_authenticate(user)


def test_who_may_log_in_is_asked_in_the_context_of_each(settings, paul) -> None:
    """What a middleware has noted of the socket counts, and nothing is noted for others."""
    settings.AUTHENTICATION_BACKENDS = [backend := "tests.site.of_one_site.OfOneSite"]
    claim, contexts = claimed(session_of(paul, backend)), [Context() for _ in range(3)]
    for context, name in zip(contexts, ("paul", "mary", ""), strict=True):
        context.run(site.set, name)
    claims = [claim._replace(context=context) for context in contexts]
    assert still_true(claims) == [True, False, True]


def test_who_cannot_be_judged_keeps_no_other_from_it(settings, paul) -> None:
    """Nothing is said of that one, in whose batch there may be any others."""
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Picky"]
    mary, backend = User.objects.create_user("mary"), settings.AUTHENTICATION_BACKENDS[0]
    by_mary = session_of(mary, backend)
    claims = [claimed(session_of(paul, backend)), claimed(session_of())]
    unsure = claims[0]._replace(session=by_mary.session_key)
    assert still_true([unsure, *claims]) == [False, True, True]


def test_groups_that_are_no_relation(monkeypatch, paul) -> None:
    """Of who hears any, nothing is said; all others are what they are."""
    session = session_of(paul)
    claims = [claimed(session, names) for names in (["staff"], [])]
    monkeypatch.setattr(User, "groups", property(lambda user: Group.objects.all()))
    assert still_true(claims) == [False, True]


class Visible(GroupManager):
    """Leaves out what the project has put aside."""

    def get_queryset(self):
        """Return the others."""
        return super().get_queryset().exclude(name="staff")


def test_a_group_that_its_manager_leaves_out(monkeypatch, paul) -> None:
    """The user has it no more, as the user's own list says."""
    claim = claimed(session_of(paul), ["staff"])
    assert is_true(claim)
    manager = Visible()
    manager.model, manager.name = Group, "objects"
    monkeypatch.setitem(vars(Group._meta), "default_manager", manager)
    assert not is_true(claim)
