"""Runs what needs Django, each job in a process of its own, without paying for imports each time.

This script imports what every job needs and then forks for each job: a line of JSON on standard
input. The answer is a line of JSON too: the exit code and what the job has printed. Nothing that
reads settings is imported before the fork, as the settings are the page's.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import signal
import sys
import tempfile
import traceback
from importlib import import_module
from typing import Any

PRELOADED = [
    "channels.layers",
    "channels.routing",
    "daphne.server",
    "django.contrib.auth.hashers",
    "django.contrib.staticfiles.handlers",
    "django.core.asgi",
    "django.core.checks",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "django.db.models",
    "django.forms",
    "django.test.client",
    "django.views.generic",
    "msgpack",
    "redis.asyncio",
    "redis.sentinel",
]

SECONDS = 60  # for one job


def check(**_: str) -> None:
    """Run ``manage.py check``."""
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    execute_from_command_line(["manage.py", "check"])


def load(*, source: str, **_: str) -> None:
    """Load the application of a module as an ASGI server does: nobody has named the settings."""
    del os.environ["DJANGO_SETTINGS_MODULE"]
    print(import_module(source).application)


def python(*, source: str, setup: str, page: str) -> None:
    """Run Python in the project; ``await`` is allowed outside of functions."""
    names = _prepare(setup, page)
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


def template(*, source: str, setup: str, page: str) -> None:
    """Render a template for a visitor who has not logged in; it sees what the setup has named."""
    names = _prepare(setup, page)
    from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415
    from django.contrib.sessions.backends.db import SessionStore  # noqa: PLC0415
    from django.template import engines  # noqa: PLC0415
    from django.test import RequestFactory  # noqa: PLC0415

    request = RequestFactory().get("/", headers={"host": "localhost"})
    request.user = AnonymousUser()
    request.session = SessionStore()
    print(engines["django"].from_string(source).render(names, request))


def template_file(*, source: str, setup: str, page: str) -> None:
    """Parse a template."""
    _prepare("", page)
    from django.template import engines  # noqa: PLC0415

    engines["django"].from_string(source)


JOBS = {job.__name__: job for job in (check, load, python, template, template_file)}


def _prepare(setup: str, page: str) -> dict[str, Any]:
    import django  # noqa: PLC0415

    django.setup()
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(setup, f"{page}, setup", "exec"), names)
    return names


def _run(job: dict[str, Any], output: int) -> int:
    """Do a job in the forked process; returns its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.alarm(SECONDS)
    os.chdir(job["folder"])
    os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    sys.path.insert(0, job["folder"])
    try:
        JOBS[job["name"]](**job["arguments"])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code)
            return 1
        return end.code or 0
    except BaseException:  # noqa: BLE001 - whatever a page's code raises is what is reported
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Do jobs until standard input ends."""
    for name in PRELOADED:
        import_module(name)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output:
            process = os.fork()
            if process == 0:
                code = 1
                try:
                    code = _run(json.loads(line), output.fileno())
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            _, status = os.waitpid(process, 0)
            output.seek(0)
            answer = {
                "code": os.waitstatus_to_exitcode(status),
                "output": output.read().decode(errors="replace"),
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
