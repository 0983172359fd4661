"""Which texts name the original package: by what they say, and by where they stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

#: The original's name, and what it needs in front to be ours.
OLD, INSERTED = "ws4redis", "channels_"

_ENTRY_POINT = "sockets are served by asgi.py now; see 'The entry point' in the guide to migrating"
_SERVER = "the ASGI server does what this module did; remove what uses it"

#: The modules of the original, and what is to be said to whoever uses one.
MODULES = {
    "context_processors": "",
    "exceptions": "",
    "models": "",
    "publisher": "",
    "redis_store": "",
    "settings": "",
    "subscriber": "",
    "django_runserver": _ENTRY_POINT,
    "uwsgi_runserver": _ENTRY_POINT,
    "_compat": _SERVER,
    "utf8validator": _SERVER,
    "websocket": _SERVER,
    "wsgi_server": _SERVER,
}

#: The beginning of a path to something in the package, and the folder of its static files.
DOTTED = rf"ws4redis\.({'|'.join(MODULES)})\b"
FOLDER = r"(?<![\w.-])ws4redis/static\b"

#: How a list of apps is called, and what takes the name of a package and nothing else.
_APPS = re.compile(r"apps\W*$", re.IGNORECASE)
_OF_A_LIST = {"append", "extend", "index", "insert", "remove"}
_TAKES_PACKAGE = {"import_module", "__import__", "find_spec", "is_installed", "importorskip"}
_TAKES_PACKAGE |= {"getLogger", "loggers", "sys.modules"}

#: What a text looks like that may name the package, as "mine.ws4redis.publisher" for a mock and
#: "list[ws4redis.publisher.RedisPublisher]" do; and one of ours: a check, a subprotocol, a file.
_MAYBE = re.compile(rf"([\w.]+\.)?ws4redis(\.\S+)?|\S*\b{DOTTED}\S*")
_OURS = re.compile(r"ws4redis\.([EWI]\d+|v\d+|.*js)")

#: Where a name is the project's own, or the label of the app, which is the same as before.
_OTHER_NAMES = re.compile(r"prefix|facility|label|get_app_config", re.IGNORECASE)


def module_of(text: str) -> str | None:
    """Return the module that a dotted path leads into, None if the text is no such path."""
    found = re.fullmatch(DOTTED + r"(\.\w+)*", text)
    return found[1] if found else None


def names_package(text: str, path: Sequence[ast.AST]) -> bool:
    """Tell whether a text certainly is the name of the package.

    :param path: the nodes from the module down to that of the text.
    """
    labels = list(_labels(path)) if text == OLD else []
    return any(map(_APPS.search, labels)) or (bool(labels) and labels[0] in _TAKES_PACKAGE)


def may_name_package(text: str, path: Sequence[ast.AST]) -> bool:
    """Tell whether a text may be, or have in it, a path that leads to the package."""
    return (
        _MAYBE.fullmatch(text) is not None
        and _OURS.fullmatch(text) is None
        and not any(map(_OTHER_NAMES.search, _labels(path)))
    )


def _labels(path: Sequence[ast.AST]) -> Iterator[str]:
    """Yield what the statement around a text says about it, from the inside outwards.

    For ``INSTALLED_APPS = config("EXTRA", default=["ws4redis"])`` that is ``default``, ``config``
    and ``INSTALLED_APPS``.
    """
    for node, around in pairwise(reversed(path)):
        if isinstance(around, ast.keyword):
            yield around.arg or ""
        elif isinstance(around, ast.Call):
            yield _label_of_call(around.func)
        elif isinstance(around, ast.Dict):
            yield from (_plain(key) for key, value in _items(around) if value is node)
        elif isinstance(around, ast.Compare):
            others = (each for each in (around.left, *around.comparators) if each is not node)
            yield from map(_plain, others)
        elif isinstance(around, ast.List | ast.Tuple | ast.Set):
            if any(_plain(each).startswith("django.contrib.") for each in around.elts):
                yield "INSTALLED_APPS"
        else:
            yield from map(_plain, _targets(around))
        if isinstance(around, ast.stmt):
            return


def _label_of_call(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return _plain(function.value) if function.attr in _OF_A_LIST else function.attr
    return _plain(function)


def _items(node: ast.Dict) -> Iterator[tuple[ast.expr, ast.expr]]:
    return ((key, value) for key, value in zip(node.keys, node.values, strict=True) if key)


def _targets(node: ast.AST) -> list[ast.expr]:
    """Return what a statement assigns to, or what a place in brackets is taken from."""
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        return [node.target]
    return [node.value] if isinstance(node, ast.Subscript) else []


def _plain(node: ast.expr) -> str:
    """Return a text as it is, and another expression as it is written."""
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)
