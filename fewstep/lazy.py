"""Modules that load at their first use, so that settings are checked without torch.

Python 3.15 has a keyword for this (PEP 810). Before, libraries such as etils replace `__import__` for a
moment, and for all threads: what another thread imports in this moment, as Prefect's senders of logs do, is
then a module that does not exist. Here it is replaced for the thread that asked.
"""

import builtins
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

from fewstep.errors import UserError

_ONE_AT_A_TIME = threading.RLock()


class LazyModule:
    """A module that is imported when one of its attributes is asked for."""

    _module: ModuleType | None = None

    def __init__(self, name: str, error_callback: Callable[[ImportError], NoReturn] | None) -> None:
        vars(self).update(_name=name, _error_callback=error_callback)

    def _loaded(self) -> Any:
        if self._module is None:
            try:
                vars(self)["_module"] = importlib.import_module(self._name)
            except ImportError as error:
                itself = f"{self._name}.".startswith(f"{error.name}.")  # and not what it needs
                if self._error_callback and itself:
                    self._error_callback(error)
                raise
        return self._module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded(), name)

    def __reduce__(self) -> Any:
        return importlib.import_module, (self._name,)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._loaded(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._loaded(), name)


@contextmanager
def lazy_imports(error_callback: Callable[[ImportError], NoReturn] | None = None) -> Iterator[None]:
    """Let the imports in this block load their modules later: when an attribute of one is first asked for.

    What is imported has to be a module: `from package import module`, not a class or a function of one.

    Args:
        error_callback: Is called with the ImportError of a module that can't load, and raises a better one.
    """

    def module(name: str, _: Any, __: Any, members: tuple[str, ...] | None, level: int) -> LazyModule:
        if level:
            raise ImportError(
                f"lazy_imports can't import {name!r} relative to a package: write its whole name"
            )
        top, *below = name.split(".")
        last = first = LazyModule(top, error_callback)
        for part in below:
            last = submodule(last, part)
        for member in members or ():
            submodule(last, member)
        return last if members else first

    def submodule(parent: LazyModule, name: str) -> LazyModule:
        return vars(parent).setdefault(name, LazyModule(f"{parent._name}.{name}", error_callback))

    def of_this_thread(*args: Any, **options: Any) -> Any:
        return (module if threading.get_ident() == thread else original)(*args, **options)

    with _ONE_AT_A_TIME:
        original, thread = builtins.__import__, threading.get_ident()
        builtins.__import__ = of_this_thread
        try:
            yield
        finally:
            builtins.__import__ = original


def brought_by(extra: str, *, what: str, library: str) -> Callable[[ImportError], NoReturn]:
    """Return the `error_callback` of `lazy_imports` for a library that an extra of fewstep brings.

    Args:
        extra: The extra of the package fewstep.
        what: What needs the library.
        library: Its name for pip.
    """

    def refuse(error: ImportError) -> NoReturn:
        raise UserError(f"{what} needs {library}: pip install 'fewstep[{extra}]'") from error

    return refuse
