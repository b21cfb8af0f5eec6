"""Ends the process of a flow run that has ended, if Prefect does not.

Before such a process ends, Prefect delivers the events that are left, and sets no limit to that: it took
seven minutes with a server that did not answer. Meanwhile the run counts as one of those that the worker may
have at once, which is one for the worker of chains. To send no events is no remedy, since the server learns
from them how tasks ended (https://github.com/PrefectHQ/prefect/issues/21030 asks for a way to send none).
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
    """Return the options of a flow that end its process; none where no worker started this process."""
    return {"on_completion": [end_soon], "on_failure": [end_soon]} if OWN in os.environ else {}


def end_soon(flow: object, run: FlowRun, state: object) -> None:
    """End this process in SECONDS if it was started for this run, not for one that this is a part of.

    Prefect calls hooks once the server knows how the run ended.
    """
    if os.environ.get(OWN) == str(run.id):
        timer = Timer(SECONDS, end)
        timer.daemon = True
        timer.start()


def end() -> None:
    """End this process, and say where its threads are."""
    print(f"the run ended {SECONDS:g} s ago; its process is ended while it waits here:", file=sys.stderr)
    faulthandler.dump_traceback()
    os._exit(0)
