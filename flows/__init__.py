"""The pipeline as Prefect flows, and the commands around it. Nothing here imports torch."""

import os
from pathlib import Path

import stages  # noqa: F401 - turns the tools' telemetry off, before they are imported
from stages.artifacts import places

CHECKOUT = Path(__file__).resolve().parent.parent

HOME = Path(os.environ.setdefault("PREFECT_HOME", str(CHECKOUT / places.PREFECT)))
HOME.mkdir(parents=True, exist_ok=True)  # Prefect makes it, but not the folders above

# Without an address, Prefect would start a server of its own, which answers anybody (flows/server/own.py).
os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")

# A run survives the restart of a server: Prefect's clients, and those of S3 in DVC and the stages, retry for
# one to two minutes.
RETRIES = {"PREFECT_CLIENT_MAX_RETRIES": "6", "AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "12"}
for name, value in RETRIES.items():
    os.environ.setdefault(name, value)
