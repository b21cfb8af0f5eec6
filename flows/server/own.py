"""The Prefect server of a run that names none: with the login and checks of that of `fewstep ui`."""

import atexit
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from flows.server import login, programs
from stages.artifacts import places

PORTS = (20_000, 30_000)  # one by chance, since runs of several checkouts may start at once


@contextmanager
def server(root: Path) -> Iterator[None]:
    """Let Prefect's clients use the server that PREFECT_API_URL names, else one of the run's own.

    Raises:
        UserError: It does not start.
    """
    if PREFECT_API_URL.value():
        yield
        return
    program, log = programs.prefect(root), root / places.LOGS / "prefect-of-a-run.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    port = programs.free_port(random.randrange(*PORTS))
    process = programs.start(program, port, log)
    atexit.register(programs.stop, process)  # at the very end, since Prefect tells it the last events then
    programs.wait_until_ready(program, port, log, process)
    settings = {
        PREFECT_API_URL: f"http://{programs.HOST}:{port}/api",
        PREFECT_API_AUTH_STRING: login.login(root),
        PREFECT_UI_URL: "",  # a link in the log would lead nowhere once the run has ended
    }
    with temporary_settings(settings):
        yield
