"""Which of the conditions of the data a network is given."""

from collections.abc import Mapping
from typing import Any

from fewstep.conditions import LABEL, shapes_of
from fewstep.errors import UserError
from fewstep.registry import unknown


def conditions_of(
    conditional: bool | tuple[str, ...], data: Mapping[str, Any], *, setting: str
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the conditions that the network is given, the label's among them.

    Args:
        conditional: What is asked for: all, none, or some by name.
        data: The facts of `prepare`.
        setting: What asks for them, for messages.

    Raises:
        UserError: if the data has none, or not those that are asked for.
    """
    there = ({LABEL: ()} if data["classes"] else {}) | shapes_of(data)
    if conditional is True and not there:
        raise UserError(
            f"{setting} is true, but the data has no labels, nor other conditions; set it to false"
        )
    names = list(there if conditional is True else conditional or ())
    for name in names:
        if name not in there:
            raise UserError(f"{setting}: {unknown('condition', name, list(there) or ['none'])}")
    return {name: there[name] for name in names}
