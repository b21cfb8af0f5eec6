"""Lineage: the identity of a tracked run, and its circumstances, which are part of no result."""

import hashlib
import os
import platform
import subprocess
import sys
import uuid
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fewstep.training.engine import VARIABLES
from stages.artifacts.plan import Input
from stages.process import parent
from stages.settings import discovery
from stages.tracking import recording

HOLD_SAMPLES = ("prepare", "couple", "trajectories")
SETTINGS = (
    *(f"FEWSTEP_{name}" for name in ("THREADS", "PROCESSES", "NODES", "BACKEND", "WORKERS")),
    *VARIABLES,
)
"""What sets the speed, and the last bits, of a result."""
PROCESS = uuid.uuid4().hex[:12]


def describe(made: dict[str, Any], outcome: str, root: Path = Path()) -> dict[str, Any]:
    """Return the identity of a run in `root` for the tracker; `made` is a manifest, or has its fields."""
    tags = {f"fewstep.{name}": str(made[name] or "") for name in ("stage", "key", "fingerprint")}
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    if digest := lock_digest(root):
        tags["fewstep.dvc_lock"] = digest
    return {
        "address": discovery.address(made["stage"], made["key"]),
        "pipeline": pipeline_id(),
        "pipeline_name": os.environ.get("DVC_EXP_NAME") or pipeline_id(),
        "tags": tags | {"fewstep.outcome": outcome},
    }


def samples(inputs: dict[str, Input]) -> list[dict[str, str]]:
    """Return the data set and the pairs among the inputs, and what is the user's own, by name and digest."""
    found = []
    for item in inputs.values():
        made = item.manifest
        if made is None or made["stage"] in HOLD_SAMPLES:
            name = discovery.address(made["stage"], made["key"]) if made else item.path.as_posix()
            found.append({"name": name, "digest": item.digest, "source": item.path.as_posix()})
    return found


def pipeline_id() -> str:
    """Return what all stages of one `dvc repro`, or of one flow, share."""
    if named := recording.variable(recording.PIPELINE):
        return named.replace("'", "")  # it goes into the tracker's queries
    if "DVC_STAGE" in os.environ and (dvc := parent.starter()):
        return f"dvc-{dvc.pid}-{hash(dvc):x}"
    return f"stage-{PROCESS}"


@cache
def git_commit() -> str | None:
    """Return the commit that is checked out, None outside of git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True)
    except OSError:
        return None
    return done.stdout.decode().strip() if done.returncode == 0 else None


def environment() -> dict[str, str]:
    """Return what needs no torch to find out: versions, platform, and the settings of the environment."""
    known = {
        "torch": version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
    }
    return known | {name.lower(): os.environ[name] for name in SETTINGS if name in os.environ}


def device() -> str:
    """Return where networks ran, once they did: a stage that used no torch ran on the cpu."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return os.environ.get("FEWSTEP_DEVICE") or "cpu"
    name = os.environ.get("FEWSTEP_DEVICE") or "cuda"
    return f"{name} ({torch.cuda.get_device_name(name)})" if name.startswith("cuda") else name


def lock_digest(root: Path) -> str | None:
    """Return the sha256 of dvc.lock as it is now, None if there is none."""
    try:
        return hashlib.sha256((root / "dvc.lock").read_bytes()).hexdigest()
    except OSError:
        return None
