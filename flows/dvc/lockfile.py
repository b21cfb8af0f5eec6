"""Entries of dvc.lock, one for each stage: a worker returns one, and the driver merges it."""

import threading
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.repo import Repo
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, dump_yaml, dumps_yaml, parse_yaml
from dvc.utils.strictyaml import YAMLValidationError, validate

from fewstep.files import written_whole

FILE = "dvc.lock"

_merging = threading.Lock()


def text(root: Path) -> str:
    """Return dvc.lock as it is, empty where there is none yet."""
    file = root / FILE
    return file.read_text() if file.exists() else ""


def part(root: Path, stages: Collection[str]) -> str:
    """Return dvc.lock with the entries of these stages alone, empty where there is none of them."""
    kept = {name: entry for name, entry in _stages(root).items() if name in stages}
    return dumps_yaml({"schema": "2.0", "stages": kept}) if kept else ""


def problem(text: str) -> str | None:
    """Say why DVC can't use a dvc.lock; None if it can."""
    try:
        validate(parse_yaml(text, FILE), COMPILED_LOCKFILE_SCHEMA)
    except (YAMLFileCorruptedError, YAMLValidationError) as error:
        return str(error.__cause__ or error)
    return None


def problems(root: Path) -> list[str]:
    """Return what is wrong with the dvc.lock of a project, if anything is."""
    file = root / FILE
    try:
        found = problem(file.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        found = str(error)
    return [f"{file} is damaged ({' '.join(found.split())})"] if found else []


def entry(root: Path, stage: str) -> dict[str, Any] | None:
    """Return the entry of a stage in dvc.lock of `root`; None if it has none."""
    return _stages(root).get(stage)


def merge(root: Path, stage: str, entry: dict[str, Any]) -> None:
    """Put the entry of a stage into dvc.lock, in DVC's format; the file is complete at any time.

    If it replaces an entry with other outputs, those of all stages that rest on them go. DVC compares what a
    stage has read with what lies in the folder, and where nothing does, it would call old results up to date.
    """
    # DVC's own lock excludes other processes, but not threads.
    with _merging, Repo(str(root), _wait_for_lock=True) as opened, opened.lock:
        stages = _stages(root)
        before = stages.get(stage, entry)["outs"]
        stale = resting_on([out["path"] for out in entry["outs"] if out not in before], stages)
        stages = {name: kept for name, kept in stages.items() if name not in stale} | {stage: entry}
        with written_whole(root / FILE) as temporary:
            dump_yaml(str(temporary), {"schema": "2.0", "stages": dict(sorted(stages.items()))})


def resting_on(outputs: list[str], stages: dict[str, Any]) -> set[str]:
    """Return the stages whose entries, or those of stages above them, name one of these outputs as read."""
    made, found = [PurePosixPath(path) for path in outputs], set[str]()
    while more := {name for name, entry in stages.items() if name not in found and _reads(entry, made)}:
        found |= more
        made += [PurePosixPath(out["path"]) for name in more for out in stages[name].get("outs", ())]
    return found


def _reads(entry: dict[str, Any], made: list[PurePosixPath]) -> bool:
    read = [PurePosixPath(dep["path"]) for dep in entry.get("deps", ())]
    return any(a.is_relative_to(b) or b.is_relative_to(a) for a in read for b in made)


def _stages(root: Path) -> dict[str, Any]:
    return (parse_yaml(text(root), FILE) or {}).get("stages", {})
