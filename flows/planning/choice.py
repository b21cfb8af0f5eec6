"""Which stages a run brings up to date, how, and how long that took before."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from fewstep.errors import UserError
from flows.dvc.repo import Stage
from flows.planning.time_limits import matching
from stages.artifacts import places, timings

Fate = Literal["unchanged", "restore", "run"]

WORDS: dict[Fate, str] = {
    "unchanged": "is up to date",
    "restore": "comes back from DVC's cache or remote",
    "run": "runs, unless DVC's cache has this very result",
}


def fates(stages: dict[str, Stage], lost: Collection[str]) -> dict[str, Fate]:
    """Return how each stage comes up to date, in dependency order.

    Args:
        stages: All of them, in dependency order.
        lost: Those whose outputs DVC has nowhere (`repo.lost`).
    """
    found: dict[str, Fate] = {}
    for name, stage in stages.items():
        above = [stages[other] for other in stage.upstream if found[other] == "restore"]
        if any(found[other] == "run" for other in stage.upstream):
            found[name] = "run"
        elif not stage.changed and not above:
            found[name] = "unchanged"
        else:
            found[name] = "restore" if name not in lost and _only_missing(stage, above) else "run"
    return found


def choose(
    stages: dict[str, Stage],
    lost: Collection[str],
    *,
    start_from: str | None = None,
    only: str | None = None,
    force: bool = False,
) -> dict[str, Fate]:
    """Return the chosen stages and how each comes up to date, in dependency order.

    Args:
        stages: All of them, in dependency order.
        lost: Those whose outputs DVC has nowhere (`repo.lost`).
        start_from: A stage, or several with commas; they are chosen, and all stages that need their output.
        only: A stage, or several with commas; they alone are chosen.
        force: The chosen stages run even if they are up to date.

    Raises:
        UserError: There is no such stage, or an input of a chosen stage is out of date.
    """
    if start_from and only:
        raise UserError(f"give --start-from ({start_from}) or --only ({only}), not both")
    names = asked.split(",") if (asked := start_from or only) else stages
    named = {stage for name in names for stage in matching(name, stages)}
    if start_from:
        for stage in stages.values():
            if named.intersection(stage.upstream):
                named.add(stage.name)
    known = fates(stages, lost)
    needed = above(stages, named) - named
    if stale := [name for name in stages if name in needed and known[name] == "run"]:
        told = f"{asked} needs what is not up to date: {', '.join(stale)}"
        if all(_only_data_changed(stages[name]) for name in stale):
            told += (
                " (files under data/ have changed, all of which these count as inputs; if they read none of "
                f"them, `dvc repro {' '.join(stale)}` takes seconds)"
            )
        raise UserError(f"{told}; give --start-from {stale[0]}, or neither --start-from nor --only")
    chosen: dict[str, Fate] = {}
    for name in stages:
        if name in named:
            chosen[name] = "run" if force else known[name]
        elif name in needed and known[name] == "restore":
            chosen[name] = "restore"
    return chosen


def above(stages: dict[str, Stage], names: Iterable[str]) -> set[str]:
    """Return the stages whose output any of `names` needs, directly or not."""
    waiting, found = list(names), set[str]()
    while waiting:
        new = set(stages[waiting.pop()].upstream) - found
        found |= new
        waiting += new
    return found


def plan(root: Path, fates: dict[str, Fate], *, force: bool) -> str:
    """Return lines on what a run would do, and how long that took the last time."""
    seconds = timings.read(root / places.STAGE_SECONDS)
    words = {**WORDS, "run": "runs from its beginning"} if force else WORDS
    lines = []
    for name, fate in fates.items():
        last = f" ({readable(seconds[name])} the last time)" if name in seconds else ""
        lines.append(f"{name} {words[fate]}{last if fate == 'run' else ''}")
    runs = running(fates)
    unknown = [name for name in runs if name not in seconds]
    total = readable(sum(seconds.get(name, 0) for name in runs))
    new = f", and {len(unknown)} that no run here has timed" if unknown else ""
    lines.append(f"{len(runs)} of {len(fates)} stages run: {total} one after the other{new}")
    return "\n".join(lines)


def running(fates: dict[str, Fate]) -> list[str]:
    """Return the stages that run, unless DVC's cache has their results."""
    return [name for name, fate in fates.items() if fate == "run"]


def provides(stage: Stage, path: str) -> bool:
    """Return whether a stage writes what lies at `path`, in it, or around it."""
    return any(Path(out).is_relative_to(path) or Path(path).is_relative_to(out) for out in stage.outputs)


def _only_data_changed(stage: Stage) -> bool:
    """Return whether no input of a stage has changed but the folder of the user's own files."""
    return all(
        isinstance(change, dict)
        and change.keys() == {"changed deps"}
        and change["changed deps"].keys() == {"data"}
        for change in stage.changed
    )


def _only_missing(stage: Stage, above: list[Stage]) -> bool:
    """Return whether nothing but outputs is gone: its own, and those of the stages `above` it."""
    for change in stage.changed:
        if isinstance(change, str):
            return False
        for kind, paths in change.items():
            for path, state in paths.items():
                back = any(provides(other, path) for other in above)
                if not (back if kind == "changed deps" else state in ("deleted", "not in cache")):
                    return False
    return stage.settings_before is not None


def readable(seconds: float) -> str:
    """Return a duration such as 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
