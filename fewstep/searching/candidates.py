"""Searches among whose grids another search chooses, or from which it starts."""

from collections.abc import Sequence

from fewstep import registry
from fewstep.errors import UserError
from fewstep.searches import Search


def candidate(name: str) -> Search:
    """Return the search of that name with its defaults."""
    return registry.find("fewstep.searches", name)()


def most_noises(names: Sequence[str]) -> int:
    """Return how many noises of the role "search" the most demanding of these searches uses."""
    return max((candidate(name).needs().get("search", 0) for name in names), default=0)


def check_candidates(setting: str, names: Sequence[str]) -> None:
    """Refuse names of searches to choose among that don't exist, choose themselves or come twice.

    Raises:
        UserError: naming the setting and the name.
    """
    every = registry.available("fewstep.searches")
    plain = [name for name in every if not registry.find("fewstep.searches", name).chooses]
    if not names:
        raise UserError(f"{setting} names no search; there are: {', '.join(plain)}")
    for name in names:
        if name not in plain:
            raise UserError(f"{setting}: {registry.unknown('candidate', name, plain)}")
    if len(set(names)) < len(names):
        raise UserError(f"{setting} {list(names)} names a search twice")
