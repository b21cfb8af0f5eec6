"""What a stage's `run` and `plan` are given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage and key at work: where its inputs lie, where it writes, and what it reports to."""

    stage: str
    key: str | None
    seed: int
    inputs: dict[str, Path]
    """Where the inputs lie, by the names that the stage's `inputs` gave them."""
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The manifests of those inputs that a stage made, by the same names."""
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    """The manifests of all results that the inputs are or rest on, the first made first."""
    out: Path
    """A folder that is published when `run` returns; after a kill it holds what was written before."""
    scratch: Path
    """A folder for what helps to resume and is not published."""
    result: str
    """A name for the result, by stage, key and fingerprint, that no other result has."""
    again: bool = False
    """Whether it shall be made again, so nothing that an earlier run left in another place may be used."""
    progress: Progress
    picture: Callable[[str, Path], None] = lambda name, file: None
    """Sends a picture to the tracker, under a name."""
    attach: Callable[[str, Path], None] = lambda folder, file: None
    """Sends a file that is no output to the tracker, into a folder there."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts and checks for the manifest; plain values that the inputs determine."""
