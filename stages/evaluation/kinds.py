"""Kinds of grids that entries of the evaluation are sampled on, as metrics.json and pages call them."""

from fewstep import registry

OWN = "own"
"""The grid that a student was trained for."""
EQUAL = "uniform"
"""Equal steps."""
FINE = "fine"
"""Many steps, which stand for the exact solution."""


def searched(name: str) -> str:
    """Return the kind of a grid that a search found: the search's name, unless another kind has it."""
    return f"searched-{name}" if name in (OWN, EQUAL, FINE) else name


def names_in_use() -> set[str]:
    """Return what no entry of the user's may be called."""
    return {OWN, EQUAL, FINE, *map(searched, registry.available("fewstep.searches"))}
