"""Running somebody's script as Python itself would, inside this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def execute(path: str, arguments: Sequence[str]) -> None:
    """Execute a script as the module ``__main__``, with ``sys.argv`` and ``sys.path`` as it expects them."""
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    main = ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=__builtins__, __spec__=None, __loader__=None)
    sys.modules["__main__"] = main
    sys.argv = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    exec(code, main.__dict__)


def report_error(error: BaseException) -> int:
    """End a script as Python would: print its traceback, which begins in the script, and return its exit code."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    traceback, ours = error.__traceback__, os.path.dirname(__file__)
    while traceback and os.path.dirname(traceback.tb_frame.f_code.co_filename) == ours:
        traceback = traceback.tb_next
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def after_import(name: str, action: Callable[[ModuleType], Any]) -> None:
    """Call ``action(module)`` as soon as a module has been imported; at once if it has been already."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))


class _AfterImport(MetaPathFinder):
    """Finds nothing itself: wraps the loader of one module, the first time that it is looked for."""

    def __init__(self, name: str, action: Callable[[ModuleType], Any]) -> None:
        self._name, self._action = name, action

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute_module = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute_module(module)
            self._action(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
