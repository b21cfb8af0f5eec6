"""The circumstances a result was made in: they go to the tracker, never into the result."""

import hashlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

SETTINGS = ("FEWSTEP_THREADS", "FEWSTEP_PROCESSES", "FEWSTEP_BACKEND", "FEWSTEP_WORKERS")


def environment() -> dict[str, str]:
    """Return what is known without torch: versions, platform, and what the environment says of speed."""
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
    has_gpu = torch is not None and torch.cuda.is_available()
    name = os.environ.get("FEWSTEP_DEVICE") or ("cuda" if has_gpu else "cpu")
    return f"{name} ({torch.cuda.get_device_name(name)})" if has_gpu and name.startswith("cuda") else name


def lock_digest(root: Path) -> str | None:
    """Return the sha256 of dvc.lock as it is now, None if there is none."""
    try:
        return hashlib.sha256((root / "dvc.lock").read_bytes()).hexdigest()
    except OSError:
        return None
