"""Variants: the checkout with other settings, in a clone of its own below `places.VARIANTS`.

A variant shares the checkout's cache, scratch and tracker, so that it does not repeat what the checkout or
another variant has made. The checkout itself never changes.
"""

import copy
import hashlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.files import remove
from fewstep.renamed import MOVED
from flows.dvc import repo
from flows.system import git
from flows.workspaces import workspace_lock
from stages.artifacts import places
from stages.settings import checks, discovery, yaml_text
from stages.settings.messages import suggest
from stages.settings.params import Params, canonical


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A checkout with its settings overridden; without overrides, the checkout itself."""

    root: Path
    """The checkout."""
    overrides: dict[str, Any]
    """Dotted settings and their values, such as {"distill.boss-4.train.steps": 800}."""
    params: Params
    """The settings, overridden and checked."""

    @classmethod
    def of(cls, root: Path, overrides: dict[str, Any]) -> "Variant":
        """Return the variant of a checkout.

        Raises:
            UserError: A setting of params.yaml or of the overrides is unknown, or its value is wrong.
        """
        raw = copy.deepcopy(Params.read(root / "params.yaml").raw)
        for path, value in overrides.items():
            put(raw, path, value)
        return cls(root=root.resolve(), overrides=overrides, params=_checked(yaml_text.write(raw)))

    @property
    def name(self) -> str:
        """A digest of what is overridden."""
        return hashlib.sha256(canonical(self.overrides).encode()).hexdigest()[:10]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / places.VARIANTS / self.name if self.overrides else self.root

    @property
    def lock(self) -> Path:
        """The lock that a flow run holds while it works there; beside the folder, which may be made again."""
        return self.folder.with_suffix(".lock") if self.overrides else workspace_lock.lock_of(self.root)

    def prepare(self) -> Path:
        """Make or renew the folder and return it. It has the checkout's files as they are, committed or not.

        The caller holds `lock`.

        Raises:
            UserError: git cannot clone the checkout.
        """
        root, place = self.root, self.folder
        if place == root:
            return root
        if not (place / ".git").exists():
            shutil.rmtree(place, ignore_errors=True)
            partial = place.with_suffix(".tmp")
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            git.git(root, "clone", "--quiet", ".", str(partial))
            (partial / places.STATE).symlink_to(root / places.STATE)
            partial.replace(place)
        git.clear_locks(place)  # of a run that was killed: who lives holds the lock of this variant
        commit = git.commit(root)
        git.git(place, "fetch", "--quiet", "origin", commit)
        known = place / "dvc.lock"
        before = known.read_bytes() if known.exists() and (place / ".dvc" / "config.local").exists() else None
        git.git(place, "checkout", "--quiet", "--force", "--detach", commit)
        mirror(root, place, tracked(root) | tracked(place) | sources(root, place))
        if before is not None:  # it remembers its own last run, not the checkout's
            known.write_bytes(before)
        (place / "params.yaml").write_text(yaml_text.write(self.params.raw))
        repo.share(root, place)
        return place


@cache
def _checked(text: str) -> Params:
    """Return settings, decoded and checked: once for the command, its flow and the variants of a sweep.

    Raises:
        UserError: A setting is wrong.
    """
    params = Params(yaml_text.read(text, "params.yaml"))
    checks.check(params)
    return params


def put(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted setting; the setting itself may be new, since it may have a default, but not its stage.

    Raises:
        UserError: There is no such place in params.yaml.
    """
    *steps, last = path.split(".")
    place, walked = raw, ""  # where it stands, and how it came there
    for depth, step in enumerate([*steps, last]):
        keys = depth == 0 or (depth == 1 and steps[0] in discovery.names() and discovery.keyed(steps[0]))
        if keys and step not in place:
            now = MOVED.get(f"{walked}{step}")
            moved = f"it is {now} now; keys are: {', '.join(place) or 'none'}"
            raise UserError(
                f"params.yaml has no {walked}{step}; {moved if now else suggest(step, list(place))}"
            )
        walked += f"{step}."
        if depth < len(steps):
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise UserError(
                    f"{path}: {no_mapping(walked[:-1], place, [*steps, last][depth + 1 :], value)}"
                )
    place[last] = value


def no_mapping(place: str, there: Any, below: list[str], value: Any) -> str:
    """Say that a setting has nothing below it where it is written as one value, and how to write it."""
    told = f"{place} is written as the plain value {yaml_text.written(there)}"
    if not (there is None or isinstance(there, str)):
        return f"{told}, which has no settings below it"
    for name in reversed(below):
        value = {name: value}
    mapping = ({} if there is None else {"name": there}) | value
    return f"{told}; write it as a mapping, such as --set '{place}={yaml_text.written(mapping)}'"


def tracked(root: Path) -> set[Path]:
    """Return the files that git has or would take, relative to `root`."""
    listed = git.git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    return {Path(name) for name in listed.split("\0") if name}


def sources(root: Path, place: Path) -> set[Path]:
    """Return the files, here or there, that stages read and no stage makes; git may ignore them."""
    stages = repo.read(root).values()
    made = [Path(out) for stage in stages for out in stage.outputs]
    read = {Path(path) for stage in stages for path in stage.inputs}
    own = [path for path in read if not any(o.is_relative_to(path) or path.is_relative_to(o) for o in made)]
    return {
        file.relative_to(top)
        for top in (root, place)
        for path in own
        for file in [top / path, *(top / path).rglob("*")]
    }


def mirror(root: Path, place: Path, files: Collection[Path]) -> None:
    """Make these files of `place` equal to those of `root`."""
    there = [name for name in files if (root / name).is_file()]
    for name in set(files).difference(there):  # first, as a folder may stand where a file was
        if (place / name).is_file() or (place / name).is_symlink():
            (place / name).unlink()
    for name in there:
        source, target = root / name, place / name
        if target.is_dir():
            remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or not same(source, target):
            target.unlink(missing_ok=True)
            shutil.copy2(source, target)


def same(source: Path, target: Path) -> bool:
    """Return whether a file was copied and neither changed since."""
    a, b = source.stat(), target.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)
