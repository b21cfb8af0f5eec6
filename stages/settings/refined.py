"""Which models are sampled beside a refiner, in which blocks, and whether it was trained beside them."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from fewstep.refining import Blocks
from stages.evaluation import kinds
from stages.settings.fields import Settings
from stages.settings.models import is_refiner
from stages.settings.params import Params


class RefinedSettings(Settings):
    """What a refiner is tried with."""

    model: str
    """The model: the refiner's teacher."""
    refiner: str
    """A key of distill whose method trains a refiner."""
    blocks: tuple[tuple[int, int, int], ...] = ()
    """Numbers of steps, each of three kinds in this order: of Heun, of heun_pc, refined; see
    fewstep.refining.Blocks. Steps are equal."""
    budget: tuple[Annotated[float, Field(ge=2)], ...] = ()
    """In place of blocks, what a sample may cost, in velocities of the model: of the blocks that cost no
    more, those are taken that end nearest to a fine run. A call of the refiner costs its share of MACs."""

    @field_validator("blocks")
    @classmethod
    def _can_be(cls, blocks: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        for numbers in blocks:
            Blocks(*numbers)
        return blocks

    @model_validator(mode="after")
    def _one_of_both(self) -> "RefinedSettings":
        if bool(self.blocks) == bool(self.budget):
            raise ValueError("set blocks or budget, one of the two")
        return self


def wrong_refined(
    asked: Mapping[str, RefinedSettings], others: Mapping[str, Settings], params: Params
) -> Iterator[str]:
    """Yield what is wrong with evaluate.refined; `others` are the entries of evaluate.samplers."""
    for name, settings in asked.items():
        where = f"evaluate.refined.{name}"
        if name in {*others, *kinds.names_in_use()}:
            yield f"{where}: the report has another entry of that name; rename it"
        if len(set(settings.blocks)) < len(settings.blocks):
            yield f"{where}.blocks name steps twice"
        if len(set(settings.budget)) < len(settings.budget):
            yield f"{where}.budget {list(settings.budget)} names a number twice"
        if not is_refiner(settings.refiner, params):
            known = [key for key in params.keys("distill") if is_refiner(key, params)]
            yield (
                f"{where}.refiner {settings.refiner!r} is no refiner; there are: {', '.join(known) or 'none'}"
            )
        elif (teacher := params.config("distill", settings.refiner).teacher) != settings.model:
            yield (
                f"{where}.model {settings.model!r} is not what {settings.refiner} was trained beside; set it "
                f"to {teacher}"
            )
