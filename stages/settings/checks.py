"""A stage can't rest on its own result, which settings that name models could ask for."""

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING

from stages.settings import discovery

if TYPE_CHECKING:
    from stages.settings.params import Params

Made = tuple[str, str | None]  # a stage and its key


def circle(params: "Params") -> list[str]:
    """Return what is wrong if some stages wait for each other, with the settings that make them."""
    makers = params.outputs()
    needs = {
        made: {makers[path] for path in params.inputs(*made).values() if path in makers}
        for made in makers.values()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return [describe(error.args[1][::-1], params)]  # graphlib puts what is needed first
    return []


def describe(stages: list[Made], params: "Params") -> str:
    """Say that each of these stages needs the next, the last of which is the first."""
    names = [
        f"{stage}.{key}.{name} {value!r}"
        for (stage, key), (_, needed) in pairwise(stages)
        for name, value in params.config(stage, key)
        if isinstance(value, str) and value.rpartition("/")[2] == needed
    ]
    chain = ", which needs ".join(discovery.address(*made) for made in stages)
    return f"{', '.join(names)} makes a circle: {chain}; name a model made before, such as pretrain"
