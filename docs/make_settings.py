"""Makes reference/settings.md from the package's settings, whose docstrings are its text."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from django.conf import global_settings

from channels_ws4redis.conf import PROPERTIES, Settings

PAGE = Path(__file__).parent / "reference" / "settings.md"

#: What a project writes, in words, by what the code reads from it.
TYPES = {
    "Collection[str]": "list of `str`",
    "Hook": "callable, or `str` with its dotted path",
    "Replay": "`str` or `int`",
    "Mapping[str, Any] | str": "`dict` or `str`",
    "Networks | int | None": "list of `str`, `int` or `None`",
    "bool": "`bool`",
    "bool | None": "`bool` or `None`",
    "float": "`float`",
    "int": "`int`",
    "int | None": "`int` or `None`",
    "str": "`str`",
    "str | None": "`str` or `None`",
    "str | type": "`str` with a dotted path",
}

INTRODUCTION = """\
# Settings

This page is for whoever configures a project. It lists every setting that the package reads, with
its default. They belong into Django's settings module. All are optional.

A setting is read when it is used, so `override_settings` works in tests.
[`manage.py check`](checks.md) finds values that make no sense.

A project also needs `ASGI_APPLICATION`, which names
[its router](python.md#channels-ws4redis-routing), and `CHANNEL_LAYERS`, which names
[a channel layer](python.md#channels-ws4redis-layers):

<!-- append: mysite/settings.py -->
```python
ASGI_APPLICATION = "mysite.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}}
WS4REDIS_CONNECTION = {"host": "localhost", "port": 6379}
WS4REDIS_PREFIX = "mysite"
WS4REDIS_REPLAY = "all"
```
"""

DJANGO = """\
## Settings of Django

The package reads these settings of Django too. `ALLOWED_HOSTS`, `SECURE_PROXY_SSL_HEADER` and
`USE_X_FORWARDED_HOST` count as for any request: they decide what the server's own origin is.
"""


class Defaults(Settings):
    """The settings of a project that sets none."""

    def _get(self, name: str, default: Any) -> Any:
        return default


def page() -> str:
    """Return the page of settings."""
    django = [name for name in PROPERTIES if hasattr(global_settings, name)]
    ours = [name for name in PROPERTIES if name not in django]
    parts = [INTRODUCTION, _table(ours), "## Settings of the package\n", *map(_section, ours)]
    parts += [DJANGO, *map(_section, django)]
    return "\n".join(parts).rstrip("\n") + "\n"


def _table(names: list[str]) -> str:
    lines = ["| setting | what it is |", "|---|---|"]
    for name in names:
        summary = _text(name).partition("\n\n")[0].replace("\n", " ")
        lines.append(f"| {_link(name)} | {summary.rstrip('.')} |")
    return "\n".join(lines) + "\n"


def _section(name: str) -> str:
    annotation = inspect.get_annotations(PROPERTIES[name].fget)["return"]
    return f"### `{name}`\n\n{TYPES[annotation]}, default `{_default(name)}`.\n\n{_text(name)}\n"


def _text(name: str) -> str:
    text = (inspect.getdoc(PROPERTIES[name]) or "").replace("``", "`")
    # Other settings that the text names become links to their sections.
    return re.sub(r"`([A-Z][A-Z0-9_]+)`", lambda found: _link(found[1]), text)


def _link(name: str) -> str:
    linked = f"[`{name}`](#{name.lower().replace('_', '-')})"
    return linked if name in PROPERTIES else f"`{name}`"


def _default(name: str) -> str:
    value = getattr(Defaults(), name)
    return repr(list(value) if isinstance(value, tuple) else value).replace("'", '"')


if __name__ == "__main__":
    PAGE.write_text(page())
