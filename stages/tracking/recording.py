"""Under what tracked runs are recorded: as the environment says, or a flow, which may run several at once."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

PIPELINE, EXPERIMENT = "FEWSTEP_PIPELINE", "MLFLOW_EXPERIMENT_NAME"
NAMES = (PIPELINE, EXPERIMENT)
"""What travels to a worker, which knows by itself where the tracker is."""

_said: ContextVar[Mapping[str, str]] = ContextVar("recording", default=MappingProxyType({}))


@contextmanager
def recorded(**variables: str) -> Iterator[None]:
    """Let these variables hold for a while, in this thread and the tasks that it starts."""
    token = _said.set({**_said.get(), **variables})
    try:
        yield
    finally:
        _said.reset(token)


def variable(name: str) -> str | None:
    """Return what holds of a variable here."""
    return _said.get().get(name, os.environ.get(name))


def environment() -> dict[str, str]:
    """Return the environment for a child that records what this thread does."""
    return os.environ | _said.get()
