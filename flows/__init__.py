"""When the pipeline runs, and the commands around it. Nothing here imports torch."""

import os
from pathlib import Path

import stages  # noqa: F401 - keeps the tools from phoning home, which must come before they are imported

CHECKOUT = Path(__file__).resolve().parent.parent

HOME = Path(os.environ.setdefault("PREFECT_HOME", str(CHECKOUT / ".fewstep" / "prefect")))
HOME.mkdir(parents=True, exist_ok=True)  # Prefect makes it, but not the folders above

# A server for the time of a run makes its tables first, which takes long on a busy machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

# A run goes on if a server is restarted meanwhile: Prefect's clients, and those of S3 in DVC and the stages,
# try again for one to two minutes.
PATIENCE = {"PREFECT_CLIENT_MAX_RETRIES": "6", "AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "12"}
for name, value in PATIENCE.items():
    os.environ.setdefault(name, value)
