"""Variants: the checkout with other settings, in a clone of its own below .fewstep/variants.

A variant shares the checkout's cache, scratch and tracker, so that what it has in common with the checkout,
or with another variant, is not made again. The checkout itself is never changed.
"""

import copy
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fewstep.errors import UserError
from flows.dvc import repo
from flows.system.git import commit as commit_of
from flows.system.git import git
from stages.settings import checks, discovery
from stages.settings.messages import suggest
from stages.settings.params import Params, canonical


def name_of(overrides: dict[str, Any]) -> str:
    """Return the name of a variant: a digest of what it overrides."""
    return hashlib.sha256(canonical(overrides).encode()).hexdigest()[:10]


def folder(root: Path, overrides: dict[str, Any]) -> Path:
    """Return where the variant of these overrides lies."""
    return root.resolve() / ".fewstep" / "variants" / name_of(overrides)


def lock_of(root: Path, overrides: dict[str, Any]) -> Path:
    """Return the lock that who works in a variant holds; beside it, so that it outlives it."""
    return folder(root, overrides).with_suffix(".lock")


def settings(root: Path, overrides: dict[str, Any]) -> Params:
    """Return the settings of `root` as overridden, checked.

    Args:
        root: The checkout.
        overrides: Dotted settings and their values, such as {"distill.boss-4.train.steps": 800}.

    Raises:
        UserError: a setting is unknown, or a value is wrong.
    """
    raw = copy.deepcopy(Params.read(root / "params.yaml").raw)
    for path, value in overrides.items():
        put(raw, path, value)
    params = Params(raw)
    checks.check(params)
    return params


def put(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted setting; the setting itself may be new, since it may have a default, but not its stage.

    Raises:
        UserError: it leads to nothing.
    """
    *steps, last = path.split(".")
    place, trodden = raw, ""
    for depth, step in enumerate([*steps, last]):
        keys = depth == 0 or (depth == 1 and steps[0] in discovery.names() and discovery.keyed(steps[0]))
        if keys and step not in place:
            raise UserError(f"{trodden}{step} is nothing in params.yaml; {suggest(step, list(place))}")
        trodden += f"{step}."
        if depth < len(steps):
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise UserError(f"{path}: {trodden[:-1]} is {place!r}, which has no settings of its own")
    place[last] = value


def prepare(root: Path, overrides: dict[str, Any]) -> Path:
    """Make or renew the variant of these overrides and return its folder, a project like `root`.

    It has the files of the checkout as they are now, committed or not.

    Raises:
        UserError: an override is wrong, or git can't clone the checkout.
    """
    root, place, params = root.resolve(), folder(root, overrides), settings(root, overrides)
    if not (place / ".git").exists():
        shutil.rmtree(place, ignore_errors=True)
        partial = place.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        git(root, "clone", "--quiet", ".", str(partial))
        (partial / ".fewstep").symlink_to(root / ".fewstep")
        partial.replace(place)
    commit = commit_of(root)
    git(place, "fetch", "--quiet", "origin", commit)
    known = place / "dvc.lock"
    before = known.read_bytes() if known.exists() and (place / ".dvc" / "config.local").exists() else None
    git(place, "checkout", "--quiet", "--force", "--detach", commit)
    mirror(root, place, tracked(root) | tracked(place) | sources(root))
    if before is not None:  # it remembers its own last run, not the checkout's
        known.write_bytes(before)
    (place / "params.yaml").write_text(yaml.safe_dump(params.raw, sort_keys=False))
    repo.share(root, place)
    return place


def tracked(root: Path) -> set[Path]:
    """Return the files that git has or would take, from the root."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    return {Path(name) for name in listed.split("\0") if name}


def sources(root: Path) -> set[Path]:
    """Return the files that stages read and none makes; git may ignore them, and a clone would lack them."""
    stages = repo.read(root).values()
    made = [Path(out) for stage in stages for out in stage.outputs]
    read = {Path(path) for stage in stages for path in stage.inputs}
    own = [path for path in read if not any(o.is_relative_to(path) or path.is_relative_to(o) for o in made)]
    return {file.relative_to(root) for path in own for file in [root / path, *(root / path).rglob("*")]}


def mirror(root: Path, place: Path, files: Iterable[Path]) -> None:
    """Make these files of `place` what they are in `root`."""
    for name in files:
        source, target = root / name, place / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or not same(source, target):
                target.unlink(missing_ok=True)
                shutil.copy2(source, target)
        elif not source.exists():
            target.unlink(missing_ok=True)


def same(source: Path, target: Path) -> bool:
    """Return whether a file was copied and neither changed since."""
    a, b = source.stat(), target.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)
