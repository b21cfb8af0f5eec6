"""The process a stage runs in: its variables, memory and packages. Standard library only, in a few ms."""

import ctypes
import os
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"
NEEDED = ("torch", "numpy", "safetensors", "fsspec", "webdataset", "pydantic", "PyYAML", "filelock", "tqdm")
QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "KINETO_LOG_LEVEL": "99",  # of torch's profiler, which prints when it begins and ends
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_BYTES, LARGE_BYTES = 2**30, 2**25  # LARGE_BYTES is the most that glibc comes to by itself


def apply() -> None:
    """Set the environment of a stage, or end the process if its packages are not the locked ones."""
    threads = os.environ.get("FEWSTEP_THREADS", "1")
    if not (threads.isdecimal() and int(threads)):
        sys.exit(f"FEWSTEP_THREADS must be a number of threads from 1, got {threads!r}")
    os.environ.update(dict.fromkeys(THREADS, threads))  # bytes depend on it, so a stray value may not decide
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    keep_freed_memory()
    if wrong := mismatches(LOCK):
        sys.exit(
            f"{sys.executable} lacks the locked packages: {'; '.join(wrong)}.\n"
            "`make run` creates .venv with them; or put .venv/bin first on PATH and try again."
        )


def keep_freed_memory() -> None:
    """Have the C library keep what torch frees, up to `KEPT_BYTES`, but for blocks of `LARGE_BYTES` and more.

    A step of a training frees all that it computed. What goes back to the system comes again page by page,
    which took a sixth of a step of the demo's U-Net. C libraries without mallopt are left as they are.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def mismatches(lock: Path) -> list[str]:
    """Return what this interpreter lacks of the locked packages that stages import; [] without a lock."""
    if not lock.exists():
        return []
    locked = dict(re.findall(r"^([\w.-]+)==([\w.!]+)", lock.read_text().replace("_", "-").lower(), re.M))
    wrong = []
    for name in NEEDED:
        want = locked.get(name.lower())
        try:
            have = version(name).partition("+")[0]  # 2.13.0+cpu and 2.13.0+cu130 are both 2.13.0
        except PackageNotFoundError:
            have = "missing"
        if want and have != want:
            wrong.append(f"{name} is {have}, needs {want}")
    return wrong
