"""The order in which stages that are ready begin: that with the longest way to the end of the DAG first."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from statistics import fmean


def urgency(
    upstream: Mapping[str, Sequence[str]], seconds: Mapping[str, float]
) -> dict[str, tuple[float, int]]:
    """Return what to sort stages by, the most urgent last: the seconds of the longest chain that begins with
    each, and how many stages came before it, for a long chain tends to go on with stages that take long.

    Args:
        upstream: The stages that each stage waits for.
        seconds: How long each took the last time. A stage that never ran counts as the mean of the others.
    """
    usual = fmean(found) if (found := [seconds[name] for name in upstream if name in seconds]) else 1.0
    order = list(TopologicalSorter(upstream).static_order())
    before: dict[str, set[str]] = {}
    for name in order:
        before[name] = set(upstream[name]).union(*(before[above] for above in upstream[name]))
    chain = {name: seconds.get(name, usual) for name in order}
    for name in reversed(order):
        for above in upstream[name]:
            chain[above] = max(chain[above], seconds.get(above, usual) + chain[name])
    return {name: (chain[name], len(before[name])) for name in order}
