"""The command: shows what has to change in code of django-websocket-redis, or changes it."""

from __future__ import annotations

import argparse
import difflib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from channels_ws4redis.port.files import find_files, is_original, port

DESCRIPTION = """\
Shows what has to change in code written for django-websocket-redis: its imports, its dotted paths
in settings, its name among the apps. Ends with 0 if that is nothing, or is written, with 1 if there
is something to change, and with 2 if a file cannot be read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Show, or make, the changes in the files that are named; returns the exit status."""
    parser = argparse.ArgumentParser("python -m channels_ws4redis.port", description=DESCRIPTION)
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a file or a folder")
    parser.add_argument("--write", action="store_true", help="change the files")
    options = parser.parse_args(arguments)
    for path in options.paths:
        if not path.exists():
            parser.error(f"there is no {path}")
        if is_original(path.resolve()):
            parser.error(f"{path} is django-websocket-redis itself; remove it")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console may not have all letters of a project
        sys.stdout.reconfigure(errors="backslashreplace")
    results = [_treat(path, write=options.write) for path in find_files(options.paths)]
    changes = results.count("changed")
    if options.write:
        _say(f"{_files(changes)} changed.")
    elif changes:
        _say(f"{_files(changes)} would change; --write changes them.")
    else:
        _say("Nothing to change.")
    if "failed" in results:
        return 2
    return 1 if changes and not options.write else 0


def _treat(path: Path, *, write: bool) -> str:
    """Show or make what is to be changed in a file; returns what came of it."""
    try:
        before = path.read_bytes()
        after, notes = port(path, before)
        if write and after != before:
            path.write_bytes(after)
    except SyntaxError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        _say(f"{path}:{error.lineno or 1}: no Python {version}: {error.msg}")
        return "failed"
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        _say(f"{path}: {error}")
        return "failed"
    if not write:
        _show(path, before, after)
    for note in notes:
        _say(f"{path}:{note.line}: {note.text}")
    return "changed" if after != before else "left"


def _show(path: Path, before: bytes, after: bytes) -> None:
    old, new = (data.decode(errors="replace").splitlines() for data in (before, after))
    for line in difflib.unified_diff(old, new, str(path), str(path), lineterm=""):
        print(line)  # noqa: T201 # what the command is for


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 # beside the changes, which may be redirected


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


if __name__ == "__main__":
    sys.exit(main())
