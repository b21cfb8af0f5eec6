"""How long work tells of its progress, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Told by the library of work begun, done and measured."""

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """Begin a piece of work of `total` units, `done` of which an earlier run finished."""

    def advance(self, units: int = 1, **values: float) -> None:
        """Say that `units` more are done; `values`, if there are any, are shown instead of those before."""

    def measure(self, step: int, **values: float) -> None:
        """Record numbers of a step, such as losses, for the tracker."""

    def note(self, text: str) -> None:
        """Say one line to the user."""


class Silent:
    """Nobody listens."""

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """See Progress.start."""

    def advance(self, units: int = 1, **values: float) -> None:
        """See Progress.advance."""

    def measure(self, step: int, **values: float) -> None:
        """See Progress.measure."""

    def note(self, text: str) -> None:
        """See Progress.note."""


SILENT = Silent()
