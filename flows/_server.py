"""What is asked of the Prefect server: whether it answers, and whether a run was cancelled there."""

from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from fewstep.errors import UserError
from stages._sender import scrub

SECONDS = 5
ENDING = (StateType.CANCELLING, StateType.CANCELLED)


def check() -> None:
    """Ask the server that PREFECT_API_URL names; without one, Prefect starts its own.

    Raises:
        UserError: it does not answer.
    """
    if not (address := PREFECT_API_URL.value()):
        return
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": SECONDS}) as client,
    ):
        error = client.api_healthcheck()
    if error:
        raise UserError(
            f"the Prefect server at {scrub(address)} does not answer ({type(error).__name__}); "
            "PREFECT_API_URL names it. Start it, on this machine with `make ui`; or "
            "`unset PREFECT_API_URL`, and the run brings a server of its own; or do without: `dvc repro`"
        )


def cancelled(runs: set[str]) -> bool:
    """Return whether one of these flow runs was cancelled in the UI; a server that is away says no."""
    if not PREFECT_API_URL.value():
        return False
    with suppress(Exception), get_client(sync_client=True) as client:
        return any(client.read_flow_run(UUID(run)).state_type in ENDING for run in runs)
    return False
