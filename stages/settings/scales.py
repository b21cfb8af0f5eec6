"""At which scales of guidance the evaluation samples students that take it as an input."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from fewstep.guidance_ranges import shown
from stages.settings.models import guidance_range, models, references, unguidable
from stages.settings.params import Params

Scales = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)]


def wrong_scales(asked: Mapping[str, Scales], reference: str | None, params: Params) -> Iterator[str]:
    """Yield what is wrong with evaluate.guidance, and with what students are held against by it.

    Args:
        asked: The scales, by student.
        reference: The model that all others are compared with; None for the only one that there is.
        params: All settings.
    """
    known = {name: ends for name in models(params) if (ends := guidance_range(params, name))}
    for name, scales in asked.items():
        where = f"evaluate.guidance.{name}"
        if name not in known:
            yield (
                f"{where}: {name} is no student that takes guidance as an input; there are: "
                f"{', '.join(known) or 'none'}"
            )
            continue
        if len(set(scales)) < len(scales):
            yield f"{where} {shown(scales)} names a scale twice"
        yield from unguidable(params, [(where, scale, name) for scale in scales])
    against = reference or next(iter(references(params)), "")
    for name, ends in known.items():
        highest = max(asked.get(name, ends))
        for problem in unguidable(params, [("guidance", highest, against)]):
            yield (
                f"evaluate holds {name} against its reference {against}: {problem}; or set "
                f"evaluate.guidance.{name} to [1]"
            )
