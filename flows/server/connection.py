"""Questions to the Prefect server: whether it answers, and whether a run was cancelled there.

Prefect's own clients retry for two minutes (flows/__init__.py), which is right for what the server must
record. Nothing here retries: a server that does not answer delays no stage.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.context import SettingsContext, get_settings_context
from prefect.settings import PREFECT_API_URL, get_current_settings

from fewstep.errors import UserError
from fewstep.secrets import scrub
from flows.server import login
from flows.system import processes

SECONDS = 5
RESTART = 90.0  # seconds in which a server that is restarted is back
ENDING = (StateType.CANCELLING, StateType.CANCELLED)


def check() -> None:
    """Ask the server that PREFECT_API_URL names; without one, the run starts its own.

    Raises:
        UserError: It does not answer, or refuses this login.
    """
    address = PREFECT_API_URL.value()
    if address and (error := unreachable()):
        raise UserError(
            f"the Prefect server at {scrub(address)} does not answer ({type(error).__name__}); "
            "PREFECT_API_URL names it. Start it, on this machine with `fewstep ui`; or "
            "`unset PREFECT_API_URL`, and the run starts a server of its own; or use `dvc repro`"
        )
    if address and refused():
        raise UserError(
            f"the Prefect server at {scrub(address)} refuses this login; export {login.CLIENT} as "
            "`fewstep ui` prints it, or for a team's server with the value of its PREFECT_LOGIN"
        )


def refused() -> bool:
    """Return whether the server asks for another login than PREFECT_API_AUTH_STRING."""
    try:
        with asked_once() as client:
            client.api_version()
    except httpx.HTTPStatusError as error:
        return error.response.status_code == httpx.codes.UNAUTHORIZED
    except httpx.TransportError:
        return False
    return False


def cancelled(runs: set[str]) -> bool:
    """Return whether one of these flow runs was cancelled in the UI; False if the server does not answer."""
    if not PREFECT_API_URL.value():
        return False
    with suppress(Exception), asked_once() as client:
        return any(client.read_flow_run(UUID(run)).state_type in ENDING for run in runs)
    return False


class Restart:
    """Waits for a server that restarts; once, if it does not come back."""

    gone = False

    def wait(self) -> None:
        """Return when the server answers, after RESTART seconds without an answer, or when the flow stops."""
        end, told = time.monotonic() + (0 if self.gone else RESTART), False
        while (away := PREFECT_API_URL.value() and unreachable()) and time.monotonic() < end:
            if processes.stopping():
                return
            if not told:
                get_run_logger().warning("the Prefect server is away, waiting for it for %g s", RESTART)
                told = True
            time.sleep(1)
        self.gone = bool(away)
        if self.gone and not processes.stopping():
            give_up()


restart = Restart()


def give_up() -> None:
    """Stop all retries of Prefect's clients, so that the run ends without its server."""
    settings = get_current_settings()  # what all threads read at each try
    settings.client.max_retries = 0
    settings.logging.to_api.enabled = False


def end_without_server() -> NoReturn:
    """End the process of a run whose server is gone at its end, with a message."""
    print(f"\n{lost()}", file=sys.stderr, flush=True)
    os._exit(1)  # else Prefect retries for some seconds with each event that it has left


def lost() -> str:
    """Return the message for a run whose server is gone at its end."""
    server = scrub(PREFECT_API_URL.value() or "")
    return (
        f"the Prefect server at {server} went away and did not come back, so it does not know how the run "
        "ended. What the stages made is kept: run again once it answers, or use `dvc repro`"
    )


def unreachable() -> Exception | None:
    """Return why the server does not answer, None if it does."""
    with asked_once() as client:
        return client.api_healthcheck()


@contextmanager
def asked_once() -> Iterator[SyncPrefectClient]:
    """Give a client that does not retry."""
    with (
        without_retries(),
        get_client(sync_client=True, httpx_settings={"timeout": SECONDS}) as client,
    ):
        yield client


@contextmanager
def without_retries() -> Iterator[None]:
    """Turn retries of Prefect's clients off for a while.

    Prefect's `temporary_settings` reads all settings again, which takes longer than most requests.
    """
    present = get_settings_context()
    client = present.settings.client.model_copy(update={"max_retries": 0})
    settings = present.settings.model_copy(update={"client": client})
    with SettingsContext(profile=present.profile, settings=settings):
        yield
