"""The times that a student's network is given: those that its method needs."""

from fewstep.errors import UserError
from fewstep.model import Model
from fewstep.timing import with_second_time, with_slow_times
from fewstep.training.method import Method


def with_times(student: Model, method: Method, *, split_after: int | None, seed: int) -> Model:
    """Return a student whose network takes the times that its method needs.

    Args:
        student: The student.
        method: What trains it.
        split_after: How many first blocks are given the start of a step alone; None if all are given both.
        seed: Of what is drawn of it.

    Raises:
        UserError: if it can't, or has a second time already, but is to be split.
    """
    if method.needs.second_time and student.config.velocity_until == "now":
        student = with_second_time(student, seed=seed, split_after=split_after)
    elif split_after is not None:
        raise UserError("split_after: init is given the end of a step already; set split_after to null")
    if method.needs.slow_times and not student.config.architecture.get("slow_times"):
        student = with_slow_times(student, seed=seed)
    return student
