"""Give the network of a student the inputs that its method needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep import guidance_input, timing
from fewstep.errors import UserError

if TYPE_CHECKING:
    from fewstep.model import Model
    from fewstep.training.method import Needs


def with_needed(student: Model, needs: Needs, *, split_after: int | None = None, seed: int) -> Model:
    """Return a student that starts as it is, with the further inputs of its network that are needed.

    Args:
        student: The student.
        needs: Those of its method.
        split_after: How many first blocks are given the start of a step alone; None if all are given both.
        seed: Of what is drawn of it.

    Raises:
        UserError: if it is to be split and has a second time already; see also fewstep.timing and
            fewstep.guidance_input.
    """
    if needs.second_time and student.config.velocity_until == "now":
        student = timing.with_second_time(student, seed=seed, split_after=split_after)
    elif split_after is not None:
        raise UserError("split_after: init is given the end of a step already; set split_after to null")
    if needs.slow_times and not student.config.architecture.get("slow_times"):
        student = timing.with_slow_times(student, seed=seed)
    if needs.guidance_input and not student.config.guidance_input:
        student = guidance_input.with_guidance_input(student, seed=seed)
    return student
