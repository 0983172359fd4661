"""Making ``import ws4redis`` mean this package, for projects that keep their imports. Private."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

LEGACY_NAME = "ws4redis"
NAME = __name__.partition(".")[0]


class AliasLoader(Loader):
    """Puts a module of this package into ``sys.modules`` under its legacy name as well."""

    def __init__(self, name: str) -> None:
        self.name = name

    def exec_module(self, module: ModuleType) -> None:
        """Replace the empty module that was made for the legacy name.

        The import system hands out whatever it finds in ``sys.modules`` afterwards, so both names
        are one and the same object, and every class exists once.
        """
        assert module.__spec__ is not None
        sys.modules[module.__spec__.name] = import_module(self.name)


class AliasFinder(MetaPathFinder):
    """Finds ``ws4redis.x`` wherever there is a ``channels_ws4redis.x``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of the legacy name; None for all other modules."""
        head, dot, rest = fullname.partition(".")
        if head != LEGACY_NAME:
            return None
        name = NAME + dot + rest
        if find_spec(name) is None:
            return None
        return ModuleSpec(fullname, AliasLoader(name))


def install_as_ws4redis() -> None:
    """Make ``import ws4redis`` and every name below it mean this package.

    To be called at the top of a project's settings, before anything imports ``ws4redis``;
    ``'ws4redis'`` may then stay in ``INSTALLED_APPS``, and dotted names that begin with it in all
    other settings.

    :raises RuntimeError: if the original package has been imported already.
    """
    known = sys.modules.get(LEGACY_NAME)
    if known is not None and known is not sys.modules[NAME]:
        raise RuntimeError(
            f"ws4redis has already been imported from {getattr(known, '__file__', 'elsewhere')}; "
            "call channels_ws4redis.install_as_ws4redis() at the top of the settings module, and "
            "uninstall django-websocket-redis."
        )
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        # First, because the finder for files would find ours under the legacy name: a second copy.
        sys.meta_path.insert(0, AliasFinder())
    import_module(LEGACY_NAME)
