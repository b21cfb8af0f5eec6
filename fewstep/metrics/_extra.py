"""The answer to a missing library: which extra brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.errors import UserError


@contextmanager
def metrics_extra() -> Iterator[None]:
    """Turn a failed import of one of the metrics' libraries into a UserError with the remedy."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"this metric needs {error.name}: pip install 'fewstep[metrics]'") from error
