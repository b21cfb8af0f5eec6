"""How long each stage took when it ran here last; the plan of a run shows it."""

import json
from pathlib import Path

from filelock import FileLock

from fewstep.files import written_whole


def read(root: Path) -> dict[str, float]:
    """Return seconds by the name of a stage."""
    try:
        return json.loads(_file(root).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def record(root: Path, stage: str, seconds: float) -> None:
    """Note how long a stage took."""
    file = _file(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # stages run at the same time
        text = json.dumps(read(root) | {stage: round(seconds, 1)}, sort_keys=True, indent=1)
        with written_whole(file) as temporary:
            temporary.write_text(text)


def readable(seconds: float) -> str:
    """Return a duration such as 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _file(root: Path) -> Path:
    return root / ".fewstep" / "stage_seconds.json"
