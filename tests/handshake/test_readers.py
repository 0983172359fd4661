"""Which sessions can be read together with others, and that they are what the engine reads."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.contrib.sessions.backends import cache, cached_db, db, file, signed_cookies
from django.contrib.sessions.base_session import BaseSessionManager
from django.contrib.sessions.models import Session
from django.core.cache import caches

from channels_ws4redis.handshake.readers import can_read, read_sessions

pytestmark = pytest.mark.django_db

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]

KEY = "abcdefghijklmnopqrstuvwxyz012345"


@pytest.fixture
def use(settings, monkeypatch, tmp_path):
    """Have sessions kept by a class."""
    caches["default"].clear()
    settings.SESSION_FILE_PATH = str(tmp_path)

    def use(store: type) -> None:
        module: Any = ModuleType("engine_of_a_test")
        module.SessionStore = store
        monkeypatch.setitem(sys.modules, module.__name__, module)
        settings.SESSION_ENGINE = module.__name__

    return use


def saved(store: Any, **data: Any) -> str:
    """Return the key of a new session."""
    session = store()
    session.update(data)
    session.save()
    return str(session.session_key)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_read(settings, tmp_path, engine):
    """The sessions that there are, with what their engine finds in them."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    store = import_module(settings.SESSION_ENGINE).SessionStore
    keys = [saved(store, number=number) for number in range(3)]
    assert all(map(can_read, keys))
    found = read_sessions([*keys, KEY])
    assert found == {key: dict(store(key).items()) for key in keys}
    assert [found[key]["number"] for key in keys] == [0, 1, 2]
    assert read_sessions([]) == {}


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file"])
@pytest.mark.parametrize(
    "key",
    ["short", "A" * 32, "é" * 32, "a b" * 10, "a\0" * 16, "../" * 11, "a" * 41, "a:b:c" * 6],
    ids=["short", "capital", "letter", "space", "nul", "path", "long", "signed"],
)
def test_a_key_that_is_not_as_django_writes_them(settings, engine, key):
    """Nobody else may suffer from what a table or a cache makes of it."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    assert not can_read(key)


class HarmlessSession(db.SessionStore):
    """Keeps more in the table than Django does, as its documentation has it."""

    cache_key_prefix = "mine"

    @classmethod
    def get_model_class(cls) -> Any:
        """Return the model."""
        return Session

    def create_model_instance(self, data: Any) -> Any:
        """Return a row."""
        return super().create_model_instance(data)


def test_an_engine_with_a_model_of_its_own(use):
    """It leaves to Django how to read."""
    use(HarmlessSession)
    key = saved(HarmlessSession, a=1)
    assert can_read(key)
    assert read_sessions([key]) == {key: {"a": 1}}


class Filtering(BaseSessionManager):
    """Finds some sessions only, such as those of this site."""

    def get_queryset(self) -> Any:
        """Return those."""
        return super().get_queryset().filter(session_key__startswith="this")


@pytest.mark.parametrize("engine", [db, cached_db], ids=lambda module: module.__name__)
def test_a_table_that_is_read_in_its_own_way(use, engine):
    """Only its manager knows which sessions there are, and nothing is said of them."""
    model = SimpleNamespace(objects=Filtering())
    use(type("SessionStore", (engine.SessionStore,), {"get_model_class": lambda store: model}))
    assert not can_read(KEY)
    assert read_sessions([KEY]) == {}


def test_a_row_is_what_its_model_makes_of_it(use, monkeypatch):
    """Such as one that is decrypted."""

    def decrypted(cls, alias, names, values):
        row = from_db(cls, alias, names, values)
        row.session_data = row.session_data.removeprefix("encrypted ")
        return row

    from_db = Session.from_db.__func__  # type: ignore[attr-defined] # it is a class method
    monkeypatch.setattr(Session, "from_db", classmethod(decrypted))
    use(type("SessionStore", (db.SessionStore,), {}))
    key = saved(import_module("engine_of_a_test").SessionStore, a=1)
    row = Session.objects.get()
    Session.objects.update(session_data=f"encrypted {row.session_data}")
    assert read_sessions([key]) == {key: {"a": 1}}


def at_this_site(key: str, prefix: str, version: int) -> str:
    """Return the key of an entry, as a project may name it."""
    return f"this-site:{key}"


@pytest.mark.parametrize("engine", ["cache", "cached_db"])
def test_a_cache_with_names_of_the_projects_own(settings, engine):
    """Only the function knows them, and for whom."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    assert can_read(KEY)
    cache = settings.CACHES["default"] | {"KEY_FUNCTION": f"{__name__}.at_this_site"}
    settings.CACHES = {"default": cache}
    assert not can_read(KEY)
    assert read_sessions([KEY]) == {}


class Loading:
    """Reads in a way of its own."""

    def load(self) -> Any:
        """Read."""
        return super().load()  # type: ignore[misc]


class Fetching:
    """Finds the row in a way of its own, such as one of this site."""

    def _get_session_from_db(self) -> Any:
        return super()._get_session_from_db()  # type: ignore[misc]


class Judging:
    """Looks at what it has read, such as at the address of the client."""

    def _get_session(self, no_load: bool = False) -> Any:
        return super()._get_session(no_load)  # type: ignore[misc]


class Naming:
    """Has other names in the cache."""

    @property
    def cache_key(self) -> str:
        """The name of this session."""
        return "mine" + super().cache_key  # type: ignore[misc]


@pytest.mark.parametrize("part", [Loading, Fetching, Judging, Naming], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    "engine", [db, cached_db, cache, file, signed_cookies], ids=lambda module: module.__name__
)
def test_an_engine_of_the_projects_own(use, engine, part):
    """Only itself knows how to read, and nothing is said of its sessions."""
    store = type("SessionStore", (part, engine.SessionStore), {})
    use(store)
    assert not can_read(KEY)
    assert read_sessions([KEY]) == {}


def test_an_engine_that_extends_nothing_of_djangos(use):
    use(type("SessionStore", (), {}))
    assert not can_read(KEY)
