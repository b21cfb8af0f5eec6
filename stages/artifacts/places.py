"""The map of .fewstep, a checkout's persistent state that is no output: each path is below the checkout."""

from pathlib import Path

STATE = Path(".fewstep")

SCRATCH = STATE / "scratch"
"""Unfinished work of stages, and the newest finished of each."""
ENTRIES = STATE / "entries"
"""Measured entries of evaluations."""
PROFILES = STATE / "profiles"
"""The last profile of each training."""
SAMPLING_SECONDS = STATE / "timings.json"
"""Seconds per 1000 samples, by the name of an entry such as boss-4@4."""
STAGE_SECONDS = STATE / "stage_seconds.json"
"""Seconds of a stage's last run, by its address."""

OUTBOX = STATE / "outbox"
"""Records that the tracker has not taken yet."""
TRACKER = STATE / "mlflow.db"
"""The checkout's own tracker."""
TRACKED_FILES = STATE / "mlartifacts"
"""The files that it keeps."""

PREFECT = STATE / "prefect"
"""Prefect's records."""
LOGIN = STATE / "prefect-login"
"""The login of the checkout's Prefect server."""
LOGS = STATE / "logs"
"""Logs of the servers."""

FLOW_LOCK = STATE / "flow.lock"
"""Held while a flow works in the checkout."""
VARIANTS = STATE / "variants"
"""Workspaces of overrides and sweeps."""
CLONES = STATE / "workspaces"
"""Where a worker's stages run; beside each clone lies the lock that its worker holds."""
DAMAGED_LOCKFILE = STATE / "dvc.lock.damaged"
"""What `fewstep recover` put aside."""
