"""Ends the process of a flow run that has ended, if Prefect does not.

When such a process ends, Prefect first delivers the events that are left, and tries that without limit
(https://github.com/PrefectHQ/prefect/issues/21030 is on these events): with a server that does not answer,
it takes minutes for each. Until then the worker starts no other run, and the worker of chains has one at a
time.
"""

import faulthandler
import os
import sys
from threading import Timer
from typing import Any

from prefect.client.schemas.objects import FlowRun

OWN = "PREFECT__FLOW_RUN_ID"
"""Names, in a process that a worker started, the flow run that it was started for."""
SECONDS = 60.0  # for the last events


def hooks() -> dict[str, Any]:
    """Return the options of a flow that let its process end, where a worker starts one for each run."""
    return {"on_completion": [end_soon], "on_failure": [end_soon]} if OWN in os.environ else {}


def end_soon(flow: object, run: FlowRun, state: object) -> None:
    """End this process in a while, unless the flow run that ends is only a part of what it does.

    The server knows how the run ended before hooks begin.
    """
    if os.environ.get(OWN) == str(run.id):
        timer = Timer(SECONDS, end)
        timer.daemon = True
        timer.start()


def end() -> None:
    """End this process, and say where it waits."""
    print(f"the run has ended, and its process after {SECONDS:g} s more; it waited here:", file=sys.stderr)
    faulthandler.dump_traceback()
    os._exit(0)
