"""Why each stage will run: a setting, its VERSION or an input changed, or it never ran."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.dvc import repo
from flows.planning import choice

MISSING = object()
STATES = {"modified": "has changed", "deleted": "is missing", "new": "is new"}


def why(root: Path) -> dict[str, list[str]]:
    """Return what makes each stage of `root` stale, in dependency order; [] where nothing does.

    Raises:
        UserError: dvc.yaml, params.yaml or dvc.lock cannot be read.
    """
    stages = repo.read(root)
    found: dict[str, list[str]] = {}
    for name, stage in stages.items():
        stale = [stages[above] for above in stage.upstream if found[above]]
        found[name] = list(reasons(stage, stale))
    return found


def reasons(stage: repo.Stage, stale: list[repo.Stage]) -> Iterator[str]:
    """Yield what makes `stage` stale, when the stages `stale` above it are."""
    if stage.settings_before is None:
        yield "never run here"
        return
    for file, today in stage.settings.items():
        for key, before, now in differences(stage.settings_before.get(file, {}), today):
            yield f"{key} {shown(before)} -> {shown(now)} in {file}"
    makers = {path: [above.name for above in stale if choice.provides(above, path)] for path in stage.inputs}
    for path, names in makers.items():
        if names:
            yield f"input {path} may change ({', '.join(names)} {'is' if len(names) == 1 else 'are'} stale)"
    for change in stage.changed:
        yield from _told(change, known={*stage.settings, *(path for path, names in makers.items() if names)})


def differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, value before, value now) of each leaf that differs; MISSING where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(before.get(name, MISSING), now.get(name, MISSING), inner)
    elif before != now:
        yield key, before, now


def shown(value: Any) -> str:
    """Write a setting as params.yaml might."""
    return "(not set)" if value is MISSING else json.dumps(value, default=str)


def _told(change: str | dict[str, dict[str, Any]], known: set[str]) -> Iterator[str]:
    if isinstance(change, str):  # such as "changed command"
        yield f"{change} in dvc.yaml"
        return
    for kind, paths in change.items():
        for path, state in paths.items():
            if path not in known:
                yield f"{'input' if kind == 'changed deps' else 'output'} {path} {STATES.get(state, state)}"


def table(found: dict[str, list[str]]) -> Table:
    """Lay out what `why` found."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column("stage", style="bold", no_wrap=True)
    grid.add_column("why it will run")
    for name, lines in found.items():
        grid.add_row(name, "\n".join(lines) or "[green]up to date[/green]")
    return grid
