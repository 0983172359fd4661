"""Points the project of a page at the tests' Redis, in every process that the page starts.

Python imports this module at its start, as its folder is on PYTHONPATH. Pages set
``WS4REDIS_CONNECTION`` as a reader would; the setting is replaced after the settings have run.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

SETTINGS = "mysite.settings"


class _Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != SETTINGS or "MANUAL_REDIS_URL" not in os.environ:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module) -> None:
                run(module)
                module.WS4REDIS_CONNECTION = os.environ["MANUAL_REDIS_URL"]

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder)
