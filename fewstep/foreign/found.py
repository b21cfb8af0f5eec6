"""Found: what a folder of another library says of the model in it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DECLARATION = ("prediction", "path", "time", "time_scale")
"""What must be known of a model besides its network."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is known of a network's samples and conditions."""

    channels: int | None = None
    """Channels of a sample; None if nobody says."""
    side: tuple[int, int] | None = None
    """Height and width of a sample; None if nobody says."""
    labels: int = 0
    """Rows of its table of class labels; 0 for a network without classes."""
    null: bool = False
    """Whether the last row is sure to be the null condition of guidance."""

    @property
    def classes(self) -> int:
        """Classes of its labels, without the null condition where that is sure to be one of them."""
        return self.labels - 1 if self.null else self.labels

    def shape(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a sample, with the sizes that are `asked` for where nobody says."""
        return (self.channels or asked[0], *(self.side or asked[1:]))


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model in a folder, before its weights are read."""

    architecture: dict[str, Any]
    """As in fewstep.model.ModelConfig."""
    files: list[Path]
    """Of its weights."""
    described: Described
    """What it says of the network."""
    declared: dict[str, Any] = field(default_factory=dict)
    """What the folder says of DECLARATION, by name."""
    notes: tuple[str, ...] = ()
    """What else was seen, a sentence each."""
