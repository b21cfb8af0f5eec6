"""At which scales of guidance the evaluation samples students that take it as an input."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from fewstep.guidance_ranges import Range, shown
from stages.settings.models import guidance_range, models, references, unguidable
from stages.settings.params import Params

Scales = Annotated[tuple[float, ...], Field(min_length=1)]


def wrong_scales(asked: Mapping[str, Scales], reference: str | None, params: Params) -> Iterator[str]:
    """Yield what is wrong with evaluate.guidance, and with what students are compared with by it.

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
    for name, (scale, remedy) in not_asked_of_a_teacher(asked, known, params).items():
        for problem in unguidable(params, [("guidance", scale, against)]):
            yield f"evaluate holds {name} against its reference {against}: {problem}; or set {remedy}"


def not_asked_of_a_teacher(
    asked: Mapping[str, Scales], known: Mapping[str, Range], params: Params
) -> dict[str, tuple[float, str]]:
    """Return the guidance of students that no teacher was asked to show, and how to do without, by name.

    Whether a teacher can show it is checked where it is asked for it.
    """
    found = {
        name: (max(asked.get(name, ends)), f"evaluate.guidance.{name} to [1]") for name, ends in known.items()
    }
    for name in params.keys("distill"):
        method = params.config("distill", name).method.options
        if not method.needs.teacher and (scale := method.trained().get("baked_guidance", 1)) != 1:
            found[name] = scale, f"distill.{name}.method.guidance to 1"
    return found
