"""A project as DVC sees it: its stages, what changed, where its outputs are shared, and the unused cache."""

import gc
import json
import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.logger import set_loggers_level
from dvc.repo import Repo, lock_repo
from dvc.rwlock import rwlock
from filelock import FileLock, Timeout

from fewstep.errors import UserError
from fewstep.files import remove, shown
from flows.dvc import config, damage, params_read

KEEP = dict.fromkeys(("workspace", "all_branches", "all_tags", "all_experiments"), True)
"""What keeps a cached file from garbage collection."""

_at_root = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of dvc.yaml, and what dvc.lock holds of its last run."""

    name: str
    upstream: tuple[str, ...]
    """The stages it waits for."""
    inputs: tuple[str, ...]
    """Files and folders it reads."""
    outputs: tuple[str, ...]
    """Files and folders it writes."""
    settings: dict[str, dict[str, Any]]
    """File -> dotted key -> value today."""
    settings_before: dict[str, dict[str, Any]] | None
    """The same at the last run; None if dvc.lock has no run."""
    changed: tuple[str | dict[str, dict[str, Any]], ...]
    """What `dvc status` reports; empty when nothing changed."""
    uncached: bool
    """Whether DVC's cache lacks something of what it wrote in its last run, or it never ran."""


def read(root: Path) -> dict[str, Stage]:
    """Return the stages of `root`'s dvc.yaml in dependency order, else in that of the file and the settings.

    Raises:
        UserError: dvc.yaml, params.yaml or dvc.lock cannot be read, or a stage holds its lock.
    """
    with _opened(root) as repo, lock_repo(repo):  # under the lock, DVC keeps its graph for `status`
        graph = repo.index.graph
        nodes = {node.addressing: node for node in graph.nodes if node.cmd}
        upstream = {
            name: tuple(sorted(above.addressing for above in graph.successors(node) if above.cmd))
            for name, node in nodes.items()
        }
        changed = _changed(repo, nodes.values())
        order = TopologicalSorter(upstream).static_order()
        return {name: _stage(nodes[name], upstream[name], changed.get(name, [])) for name in order}


def shares_by(root: Path) -> Literal["remote", "cache"] | None:
    """Return how `root` shares outputs with other machines: by a remote, or a cache outside of it."""
    settings = config.read(root)
    if "remote" in settings["core"]:
        return "remote"
    return "cache" if "dir" in settings["cache"] else None


def lost(root: Path, stages: Iterable[Stage]) -> set[str]:
    """Return the names of those of `stages` whose outputs are, in part or whole, in no cache and no remote.

    The remote is asked only for what the cache lacks, and only if `root` shares outputs by it.

    Raises:
        UserError: The remote does not answer.
    """
    uncached = {stage.name for stage in stages if stage.uncached}
    if not uncached or shares_by(root) != "remote":
        return uncached
    with _opened(root) as repo, lock_repo(repo):
        nodes = [node for node in repo.index.stages if node.addressing in uncached]
        try:
            return {node.addressing for node in nodes if any(_is_lost(repo, out) for out in node.outs)}
        except Exception as error:  # each kind of remote has errors of its own
            name = repo.config["core"]["remote"]
            raise UserError(
                f"the DVC remote {name!r} of {root} cannot be reached: {error}; see that it answers, or do "
                "without it: dvc remote default --unset"
            ) from error


def share(root: Path, clone: Path) -> None:
    """Let a clone of `root` use its cache and remotes, with their secrets and by paths seen from `root`."""
    settings = config.read(root)
    (clone / ".dvc" / "config.local").touch(mode=0o600)  # the file that it was read from may be so, too
    with config.read(clone).edit("local", validate=False) as private:
        private["remote"] = settings["remote"]
        private["cache"] = {**settings["cache"], "dir": str(config.cache(root))}
        # Otherwise DVC keeps a database for each clone, for ever.
        private["core"] = {**settings["core"], "site_cache_dir": str(clone / ".dvc" / "tmp" / "site")}


def clear_locks(root: Path) -> list[str]:
    """Remove DVC's locks, if no DVC runs in `root`; return whose they were.

    Files that a living process locks stay. Files that lock by their existence, and the list of readers and
    writers, outlive a killed process, and another process may have its number by now.

    Raises:
        UserError: A DVC runs there.
    """
    folder, owners = root / ".dvc" / "tmp", []
    hardlink = config.read(root)["core"].get("hardlink_lock", False)
    try:
        with FileLock(folder / "lock").acquire(timeout=0) if not hardlink else nullcontext():
            owners += _owners(folder / "rwlock")
            remove(folder / "rwlock")
    except Timeout:
        raise UserError(f"DVC is running in {root}; wait for it") from None
    for file in [*folder.glob("*.lock"), folder / "lock"] if hardlink else []:
        if file.exists():
            file.unlink()
            owners.append(f"a dead process ({file.name})")
    return owners


def unused(root: Path) -> list[Path]:
    """Return the cached files that no workspace, branch, tag or experiment of `root` uses.

    A cache outside of the project (cache.dir) may serve other clones, so it has none.
    """
    if "dir" in config.read(root)["cache"]:
        return []
    with _opened(root) as repo, set_loggers_level(logging.CRITICAL), _listed() as paths:
        repo.gc(**KEEP, dry=True)
    return paths


def drop_unused(root: Path) -> None:
    """Remove what `unused` lists."""
    with _opened(root) as repo, set_loggers_level(logging.CRITICAL):
        repo.gc(**KEEP)


class _Collector(logging.Handler):
    """Collects the file that each record of a dry garbage collection is about."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__(logging.INFO)
        self.paths = paths

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        assert isinstance(record.args, tuple)
        self.paths.append(Path(str(record.args[0])))


@contextmanager
def _listed() -> Iterator[list[Path]]:
    """Give the list of files that DVC's garbage collection would remove, which only its log receives."""
    log, paths = logging.getLogger("dvc_data.hashfile.gc"), list[Path]()
    handler = _Collector(paths)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # else the terminal shows them
    try:
        yield paths
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
        log.propagate = True


def _owners(rwlock: Path) -> list[str]:
    """Return the processes that DVC's list of readers and writers names; a damaged list names none."""
    try:
        listed = json.loads(rwlock.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return ["a process that died while it wrote"]
    infos = [*listed.get("write", {}).values(), *(i for who in listed.get("read", {}).values() for i in who)]
    return sorted({_process(info) for info in infos if info})


def _writers(rwlock: Path) -> list[str]:
    """Return the files that DVC's list of readers and writers names as written, each with its process."""
    written = json.loads(rwlock.read_text()).get("write", {})
    return [f"{path} is being written by {_process(info)}" for path, info in sorted(written.items()) if info]


def _process(info: dict[str, Any]) -> str:
    """Return an entry of DVC's list of readers and writers in words."""
    return f"process {info['pid']} ({info['cmd']})"


def _changed(repo: Repo, nodes: Collection[Any]) -> dict[str, list]:
    """Return what `dvc status` reports of stages.

    It would lock the files of each stage by itself, and hash what many stages read for each of them
    (`python -m benchmarks.why_keys`).
    """
    items = [item for node in nodes for item in (*node.deps, *node.outs)]
    hashes: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, ParamsDependency):
            item.get_hash = partial(_hash_once, hashes, item)
    paths, hardlink = [item.fs_path for item in items], repo.config["core"].get("hardlink_lock", False)
    with rwlock(repo.tmp_dir, repo.fs, "dvc status", paths, [], hardlink):
        return {name: told for node in nodes for name, told in node.status.__wrapped__(node).items()}


def _hash_once(hashes: dict[str, Any], item: Any) -> Any:
    """Return DVC's hash of a file or folder, worked out the first time that it is asked for."""
    if item.fs_path not in hashes:
        hashes[item.fs_path] = type(item).get_hash(item)
    return hashes[item.fs_path]


def _is_lost(repo: Repo, out: Any) -> bool:
    """Return whether something of an output is neither in the cache nor in the remote."""
    if not out.hash_info:  # its stage never ran
        return True
    # Of a folder the list of its files is fetched first. Where there is none, it alone is asked for. A remote
    # that has the list has the files for DVC, which sends the list last.
    objects = out.get_used_objs(force=True).get(None) or {out.hash_info}
    return bool(repo.cloud.status(objects).missing)


def _stage(node: Any, upstream: tuple[str, ...], changed: list) -> Stage:
    if outside := [str(out) for out in node.outs if not out.is_in_repo]:
        raise UserError(f"dvc.yaml: {node.addressing} would write {outside[0]}, outside of the project")
    params = [dep for dep in node.deps if isinstance(dep, ParamsDependency)]
    before = {str(dep): dep.hash_info.value for dep in params if dep.hash_info.value is not None}
    outs = [told.get("changed outs", {}) for told in changed if isinstance(told, dict)]
    return Stage(
        name=node.addressing,
        upstream=upstream,
        inputs=tuple(str(dep) for dep in node.deps if dep not in params),
        outputs=tuple(str(out) for out in node.outs),
        settings={str(dep): dep.read_params() for dep in params},
        settings_before=before or None,
        changed=tuple(changed),
        uncached=not all(out.hash_info for out in node.outs)
        or any("not in cache" in states.values() for states in outs),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Do without Python's collector of garbage: DVC makes many small objects, and none to collect."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _opened(root: Path) -> Iterator[Any]:
    try:
        # DVC names stages and files as seen from the working directory, which all threads share.
        with _at_root, chdir(root), params_read.once(), _uncollected(), Repo(_wait_for_lock=True) as repo:
            yield repo
    except UnicodeEncodeError as error:  # of the path that DVC was about to write down
        name = shown(error.object)
        raise UserError(f"DVC cannot keep {name}, whose name is not in UTF-8; rename it") from None
    except FileNotFoundError as error:
        raise UserError(f"{shown(error.filename)} is a link to nothing, or is gone; remove it") from error
    except LockError as error:
        try:
            busy = ", ".join(_writers(root / ".dvc" / "tmp" / "rwlock"))
        except (OSError, ValueError):  # it changes as we look
            busy = ""
        raise UserError(
            f"{busy or f'{root} is being written by another process'}, and DVC can't be asked meanwhile; "
            "wait until it has ended"
        ) from error
    except (DvcException, OSError) as error:
        told = damage.explain(root) or f"DVC cannot read {root / 'dvc.yaml'}: {error}"
        raise UserError(told) from error
