"""The order in which stages that are ready begin: the longest chain of stages behind it goes first."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter


def stages_behind(upstream: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the length of the longest chain of stages that wait for each stage.

    Args:
        upstream: The stages that each stage waits for.
    """
    behind = dict.fromkeys(upstream, 0)
    for name in reversed(list(TopologicalSorter(upstream).static_order())):
        for above in upstream[name]:
            behind[above] = max(behind[above], 1 + behind[name])
    return behind
