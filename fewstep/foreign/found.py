"""Found: what a folder of another library says of the model in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.conditions import Shapes, images, must_have
from fewstep.errors import UserError

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
    conditions: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """All else that it is conditioned on; None where nobody says the size, such as the tokens of a text."""
    optional: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """What it may be conditioned on beside that."""
    guidance_input: bool = False
    """Whether it is given the scale of guidance; see fewstep.model.ModelConfig."""
    sides: int = 1
    """What height and width of a sample must be multiples of."""
    beside: int = 0
    """Channels of all images among its conditions together."""

    @property
    def classes(self) -> int:
        """Classes of its labels, without the null condition where that is sure to be one of them."""
        return self.labels - 1 if self.null else self.labels

    def shape(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a sample, with the sizes that are `asked` for where nobody says."""
        return (self.channels or asked[0], *(self.side or asked[1:]))

    def any_conditions(self) -> dict[str, tuple[int, ...]]:
        """Return its conditions with 1 where nobody says the size, and an image for all its images."""
        found = {name: tuple(size or 1 for size in shape) for name, shape in self.conditions.items()}
        return found | ({"image": (self.beside, 1, 1)} if self.beside else {})

    def taken(self, there: Shapes) -> dict[str, tuple[int, ...]]:
        """Return those of the conditions that are there which it takes.

        Raises:
            UserError: if one is missing, or of another shape.
        """
        optional = {name: shape for name, shape in self.optional.items() if name in there}
        wanted = dict(self.conditions) | optional
        must_have(wanted, there, by="the network")
        found = {name: tuple(there[name]) for name in wanted}
        shown = images(there) if self.beside else {}
        if (channels := sum(shape[0] for shape in shown.values())) != self.beside:
            raise UserError(
                f"the network takes images of {self.beside} channels together as conditions, the data has "
                f"{channels}; prepare data with such images"
            )
        return found | shown


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
