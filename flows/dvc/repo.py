"""All that is asked of DVC: the graph, what changed, one stage's turn, and the unused cache."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from flows.dvc.failures import StageError, failure, timeout
from flows.system import processes
from stages.tracking import recording

Outcome = Literal["ran", "cached", "unchanged"]

HINTS = ("To track the changes", "\tgit add", "To enable auto staging", "\tdvc config", "Use `dvc push`")
KEEP = ("--workspace", "--all-branches", "--all-tags", "--all-experiments")

_at_root = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of dvc.yaml beside what dvc.lock remembers of its last run."""

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
    """The same at the last run; None when dvc.lock knows of none."""
    changed: tuple[str | dict[str, dict[str, Any]], ...]
    """What `dvc status` says of it; empty when nothing changed."""


def read(root: Path) -> dict[str, Stage]:
    """Return the stages of `root`'s dvc.yaml in dependency order.

    Raises:
        UserError: dvc.yaml, params.yaml or dvc.lock cannot be read, or a stage holds its lock.
    """
    with _opened(root) as repo:
        graph = repo.index.graph
        nodes = {node.addressing: node for node in graph.nodes if node.cmd}
        upstream = {
            name: tuple(sorted(above.addressing for above in graph.successors(node) if above.cmd))
            for name, node in nodes.items()
        }
        changed = repo.status()
        order = TopologicalSorter({name: upstream[name] for name in sorted(upstream)}).static_order()
        return {name: _stage(nodes[name], upstream[name], changed.get(name, ())) for name in order}


def reproduce(
    stage: str,
    root: Path,
    log: Callable[[str], None],
    *,
    force: bool = False,
    seconds: float | None = None,
) -> Outcome:
    """Give one stage its turn, in a child process; say whether it ran, was restored, or had nothing to do.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The folder of dvc.yaml.
        log: Called with each line the stage prints.
        force: Run it even if there is its result.
        seconds: How long it may take; None is for ever.

    Returns:
        "ran", "cached" (restored from the run-cache) or "unchanged".

    Raises:
        StageError: the stage, or DVC, ended badly, or its time was over.
    """
    pull = ["--pull"] if shares_by(root) == "remote" else []
    arguments, again = ["repro", "--single-item", *pull], {}
    if force:
        arguments, again = [*arguments, "--force"], {"FEWSTEP_AGAIN": "1"}
    lines = run(stage, root, [*arguments, stage], log, seconds=seconds, environment=again)
    if any(line.startswith(f"Running stage '{stage}'") for line in lines):
        return "ran"
    return "cached" if any("is cached - skipping run" in line for line in lines) else "unchanged"


def run(
    stage: str,
    root: Path,
    arguments: list[str],
    log: Callable[[str], None],
    *,
    seconds: float | None = None,
    environment: dict[str, str] | None = None,
) -> list[str]:
    """Run a DVC command that serves a stage, in a child process, and return the lines it printed.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The folder of dvc.yaml.
        arguments: The command's.
        log: Called with each line.
        seconds: How long it may take; None is for ever.
        environment: Variables for it alone.

    Raises:
        StageError: the stage, or DVC, ended badly, or its time was over.
    """
    lines = []

    def hear(line: str) -> None:
        if line and not line.startswith(HINTS):
            lines.append(line)
            log(line)

    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    surroundings = _environment() | (environment or {})
    try:
        status = processes.run(command, hear, cwd=root, env=surroundings, seconds=seconds)
    except processes.TimeIsOverError:
        raise timeout(stage, seconds) from None
    except processes.StoppedError:
        raise StageError(stage, f"{stage} was stopped with its flow", transient=False) from None
    if status:
        raise failure(stage, lines)
    return lines


def cache(root: Path) -> Path:
    """Return the folder of the cache that `root` uses."""
    return Path(_config(root)["cache"].get("dir") or root / ".dvc" / "cache").resolve()


def shares_by(root: Path) -> Literal["remote", "cache"] | None:
    """Return by what `root` shares outputs with other machines: a remote, or a cache put elsewhere."""
    config = _config(root)
    if "remote" in config["core"]:
        return "remote"
    return "cache" if "dir" in config["cache"] else None


def bringing(root: Path, *targets: str) -> list[str]:
    """Return the arguments of the DVC command that brings outputs to `root` from where they are shared."""
    return ["pull" if shares_by(root) == "remote" else "checkout", *targets]


def lost(root: Path, stages: Iterable[str]) -> set[str]:
    """Return those of `stages` of which an output is neither in the cache nor in the remote.

    Raises:
        UserError: the remote does not answer.
    """
    with _opened(root) as repo:  # one stage at a time, for DVC tells of equal files only once
        return {name for name in stages if "missing" in repo.status(targets=[name], cloud=True).values()}


def share(root: Path, clone: Path) -> None:
    """Let a clone of `root` use its cache and remotes, with their secrets and by paths seen from `root`."""
    config = _config(root)
    with _config(clone).edit("local", validate=False) as private:
        private["remote"] = config["remote"]
        private["cache"] = {**config["cache"], "dir": str(cache(root))}
        # Else DVC would keep a database for each clone of the past.
        private["core"] = {**config["core"], "site_cache_dir": str(clone / ".dvc" / "tmp" / "site")}


def clear_locks(root: Path) -> list[str]:
    """Remove DVC's locks, when nothing is at work in `root`; return whose they were.

    The files that a living process would lock stay where they are; those whose very existence locks, and the
    list of who reads and writes what, outlive a killed process, whose number may be another's by now.

    Raises:
        UserError: a dvc is at work after all.
    """
    folder, owners = root / ".dvc" / "tmp", []
    hardlink = _config(root)["core"].get("hardlink_lock", False)
    try:
        with FileLock(folder / "lock").acquire(timeout=0) if not hardlink else nullcontext():
            owners += _owners(folder / "rwlock")
            (folder / "rwlock").unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"a dvc is at work in {root}; wait for it") from None
    for file in [*folder.glob("*.lock"), folder / "lock"] if hardlink else []:
        if file.exists():
            file.unlink()
            owners.append(f"a dead process ({file.name})")
    return owners


def unused(root: Path) -> list[Path]:
    """Return the cached files that no workspace, branch, tag or experiment of `root` uses.

    In a cache that was put elsewhere (cache.dir) it may be other clones that use them, so there are none.
    """
    if "dir" in _config(root)["cache"]:
        return []
    out = _gc(root, "--dry")
    return [Path(line.removeprefix("Removing ")) for line in out.splitlines() if line.startswith("Removing ")]


def drop_unused(root: Path) -> None:
    """Remove what `unused` lists."""
    _gc(root, "--force")


def _owners(rwlock: Path) -> list[str]:
    """Return the processes that DVC's list of readers and writers names; a half-written list names none."""
    try:
        text = rwlock.read_text()
        listed = json.loads(text)
    except FileNotFoundError:
        return []
    except ValueError:
        return ["a process that died while it wrote"]
    infos = [*listed.get("write", {}).values(), *(i for who in listed.get("read", {}).values() for i in who)]
    return sorted({f"process {info['pid']} ({info['cmd']})" for info in infos if info})


def _stage(node: Any, upstream: tuple[str, ...], changed: list) -> Stage:
    from dvc.dependency import ParamsDependency

    params = [dep for dep in node.deps if isinstance(dep, ParamsDependency)]
    before = {str(dep): dep.hash_info.value for dep in params if dep.hash_info.value is not None}
    return Stage(
        name=node.addressing,
        upstream=upstream,
        inputs=tuple(str(dep) for dep in node.deps if dep not in params),
        outputs=tuple(str(out) for out in node.outs),
        settings={str(dep): dep.read_params() for dep in params},
        settings_before=before or None,
        changed=tuple(changed),
    )


def _gc(root: Path, how: str) -> str:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "gc", *KEEP, how]
    done = subprocess.run(command, cwd=root, env=_environment(), text=True, capture_output=True)
    if done.returncode:
        raise UserError(f"dvc gc failed: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    # `cmd: python ...` takes python from PATH, and it must be the one that runs this.
    beside = os.path.dirname(sys.executable)
    return recording.environment() | {
        "PATH": os.pathsep.join((beside, os.environ.get("PATH", ""))),
        "PYTHONUNBUFFERED": "1",
    }


def _config(root: Path) -> Any:
    from dvc.config import Config

    return Config(str(root / ".dvc"), validate=False)


@contextmanager
def _opened(root: Path) -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        # DVC names stages and files as seen from the working directory, which all threads share.
        with _at_root, chdir(root), Repo(_wait_for_lock=True) as repo:
            yield repo
    except DvcException as error:
        raise UserError(f"DVC cannot read {root / 'dvc.yaml'}: {error}") from error
