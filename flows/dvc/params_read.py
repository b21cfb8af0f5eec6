"""Settings as DVC reads them, each file once: DVC itself reads params.yaml again for every stage.

With hundreds of keys in params.yaml, DVC would read it for minutes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

from dvc.dependency import param


@contextmanager
def once() -> Iterator[None]:
    """Let DVC read each file of settings once while the block runs, which must not change them."""
    as_dvc, load, files = param.read_param_file, param.load_path, dict[str, Any]()

    def load_once(path: str, fs: Any, **options: Any) -> Any:
        if path not in files:
            files[path] = load(path, fs, **options)
        return files[path]

    def read(fs: Any, path: str, keys: list[str] | None = None, flatten: bool = False, **options: Any) -> Any:
        found = values(load_once(path, fs, **options), keys or []) if flatten else {}
        return found or as_dvc(fs, path, keys, flatten, **options)

    param.load_path, param.read_param_file = load_once, read
    try:
        yield
    finally:
        param.load_path, param.read_param_file = load, as_dvc


def values(tree: Any, paths: list[str]) -> dict[str, Any]:
    """Return what lies at dotted paths; {} if anything is not there, or is no plain name.

    DVC's own search takes patterns, and so looks at all of the tree for each path.
    """
    try:
        return {path: reduce(lambda place, name: place[name], path.split("."), tree) for path in paths}
    except (KeyError, TypeError, IndexError):
        return {}
