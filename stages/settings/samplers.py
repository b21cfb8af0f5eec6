"""Which models are sampled by which samplers, and whether they learned from what a sampler asks for."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from fewstep.samplers import Sampler
from stages.evaluation import kinds
from stages.settings.fields import Count, SamplerPlugin, Settings
from stages.settings.models import missing_flows, no_score
from stages.settings.params import Params

EntryName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")]


class SamplerSettings(Settings):
    """What a sampler is tried on."""

    model: str
    """The model: one with a velocity at all times, that learned from what the sampler asks for."""
    sampler: SamplerPlugin
    """The sampler, a file of fewstep.samplers, and its options."""
    nfe: tuple[Count, ...] = Field(min_length=1)
    """NFE, each of as many equal steps."""
    last_step: float | None = Field(None, gt=0, lt=1)
    """Length of the last step, in canonical time; the others are then equal. null: it is as long as they. It
    needs 2 NFE or more."""


def wrong_samplers(asked: Mapping[str, SamplerSettings], params: Params) -> list[str]:
    """Return what is wrong with evaluate.samplers."""
    problems = []
    for name, settings in asked.items():
        where = f"evaluate.samplers.{name}"
        if name in kinds.names_in_use():
            problems.append(f"{where}: the report has another entry of that name; rename it")
        if len(set(settings.nfe)) < len(settings.nfe):
            problems.append(f"{where}.nfe {list(settings.nfe)} names a number twice")
        if settings.last_step and 1 in settings.nfe:
            problems.append(f"{where}.last_step changes nothing of one step; ask for nfe from 2")
        missing = missing_flows(params, [(f"{where}.model", settings.model)])
        problems += missing or wrong_model(where, settings, params)
    return problems


def wrong_model(where: str, settings: SamplerSettings, params: Params) -> Iterator[str]:
    """Yield why a model did not learn from what its sampler asks for."""
    model, sampler = settings.model, settings.sampler
    told = f"{where}.model {model!r}"
    asks: Sampler = sampler.options
    reflowed = params.keys("reflow")
    if asks.learned_from == "pairs":
        if model not in reflowed:
            yield (
                f"{told} did not learn from pairs, of which each noise has one data; sampler "
                f"{sampler.name} is for models of reflow: {', '.join(reflowed) or 'there are none'}"
            )
    elif (why := no_score(model, params)) is not None:
        yield f"{told} has no scores, which sampler {sampler.name} needs: {why}"
