"""Files of a project: which there are, and what each is to contain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from channels_ws4redis.port.module import Module, Note
from channels_ws4redis.port.texts import DOTTED, FOLDER, INSERTED, OLD

_PYTHON = {".py", ".pyi", ".pyw"}

#: What is searched for dotted paths as well as for the folder of the static files. Files without
#: an ending are scripts of a shell, a Procfile, a .env.
_CONFIGURATION = {"", ".cfg", ".conf", ".env", ".ini", ".json", ".sh", ".toml", ".yaml", ".yml"}
_TEXT = _CONFIGURATION | {".cjs", ".html", ".in", ".js", ".mjs", ".ts", ".txt"}

#: Folders in which nothing is the project's own.
_FOREIGN = {"node_modules", "site-packages", "__pycache__"}


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are to be looked at, each once.

    :param paths: files, which are taken as they are, and folders.
    """
    found = (file for path in paths for file in ([path] if path.is_file() else _files_in(path)))
    return list(dict.fromkeys(found))


def _files_in(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = sorted(each for each in folders if not _is_foreign(here / each))
        for file in (here / each for each in sorted(files)):
            # A pipe would never end, and a link may lead nowhere.
            if file.suffix.lower() in _PYTHON | _TEXT and _is_within(file, folder):
                yield file


def _is_within(file: Path, folder: Path) -> bool:
    """Tell whether this is a file, and no link that leads to one out of the folder."""
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _is_foreign(folder: Path) -> bool:
    return (
        folder.name in _FOREIGN
        or folder.name.startswith(".")
        or (folder / "pyvenv.cfg").exists()
        or is_original(folder)
    )


def is_original(folder: Path) -> bool:
    """Tell whether a folder is the original package, which some projects carry along."""
    return folder.name == OLD and (folder / "redis_store.py").exists()


def port(path: Path, data: bytes) -> tuple[bytes, list[Note]]:
    """Return what a file is to contain, and what somebody has to decide.

    :param data: what the file contains.
    :raises SyntaxError: if it is Python that this version of Python does not understand.
    :raises ValueError: if it is Python in another encoding than it declares.
    """
    if OLD.encode() not in data:
        return data, []
    suffix = path.suffix.lower()
    if suffix in _PYTHON or (not suffix and re.match(rb"#!.*\bpython", data)):
        module = Module(data)
        return module.ported, sorted(set(module.notes))
    if b"\0" in data:
        return data, []
    inserted = (INSERTED + r"\g<0>").encode()
    data = re.sub(FOLDER.encode(), inserted, data)
    if suffix in _CONFIGURATION:
        data = re.sub(rb"(?<![\w./-])" + DOTTED.encode(), inserted, data)
    return data, []
