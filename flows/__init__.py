"""When the pipeline runs, and the commands around it. Nothing here imports torch."""

import os
from pathlib import Path

import stages  # noqa: F401 - keeps the tools from phoning home, which must come before they are imported

CHECKOUT = Path(__file__).resolve().parent.parent

HOME = Path(os.environ.setdefault("PREFECT_HOME", str(CHECKOUT / ".fewstep" / "prefect")))
HOME.mkdir(parents=True, exist_ok=True)  # Prefect makes it, but not the folders above

# How often a request to a Prefect server that is away is tried again, after 2, 4, 8, ... 64 s: a run in whose
# middle or at whose end it is restarted goes on.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "6")
