"""Give the network of a student the inputs that its method needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep import guidance_input, timing

if TYPE_CHECKING:
    from fewstep.model import Model
    from fewstep.training.method import Needs


def with_needed(student: Model, needs: Needs, *, seed: int) -> Model:
    """Return a student that starts as it is, with the further inputs of its network that are needed.

    Raises:
        UserError: see fewstep.timing and fewstep.guidance_input.
    """
    if needs.second_time and student.config.velocity_until == "now":
        student = timing.with_second_time(student, seed=seed)
    if needs.slow_times and not student.config.architecture.get("slow_times"):
        student = timing.with_slow_times(student, seed=seed)
    if needs.guidance_input and not student.config.guidance_input:
        student = guidance_input.with_guidance_input(student, seed=seed)
    return student
