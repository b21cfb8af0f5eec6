"""A flow that is watched: what a search could not notice later is refused at the call."""

from collections.abc import Mapping
from itertools import combinations, islice
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.finite import refuse_not_finite
from fewstep.flow import WrappedFlow, batch_times
from fewstep.searching.problem import Problem

PROBED = ("search", 32)  # whose noises are asked about more than once, and how many
SAME = 1e-3  # relative difference up to which two answers count as one; kernels of GPUs vary by less
ALONE = 0.05  # the same of an answer in a smaller batch, for which a GPU may take another kernel


class Checked(WrappedFlow):
    """A flow whose every velocity must be a new tensor of the state's shape, and finite."""

    def __call__(self, x: Tensor, t: Tensor | float, *, until: Any = None, **conditions: Tensor) -> Tensor:
        """See Flow; of a flow map, the average velocity until then.

        Raises:
            UserError: if the velocity is no tensor of x's shape, not finite or x itself, or x or a condition
                changed; the message says at which t.
        """
        given = {"state": x, **conditions}
        before = versions(given)
        velocity = self.flow(x, t, **conditions, **({} if until is None else {"until": until}))
        when = f"at t = {float(batch_times(t, x)[0]):.4g}"
        if not isinstance(velocity, Tensor) or velocity.shape != x.shape:
            what = tuple(velocity.shape) if isinstance(velocity, Tensor) else type(velocity).__name__
            raise UserError(f"{when} the velocity has shape {what}, the state {tuple(x.shape)}")
        after = versions(given)
        if changed := [name for name in before if before[name] != after[name]]:
            raise UserError(
                f"{when} the model changed the {changed[0]} that it was given; let it compute a new tensor "
                "(x * 0.5, not x.mul_(0.5))"
            )
        if memory(velocity) == memory(x):
            raise UserError(
                f"{when} the model returned the state that it was given, and not a new tensor; let it return "
                "x.clone()"
            )
        refuse_not_finite("velocity", velocity, t)
        return velocity


def versions(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how often each tensor was written to; torch counts that, but not for inference tensors."""
    return {name: tensor._version for name, tensor in tensors.items() if not tensor.is_inference()}


def memory(tensor: Tensor) -> int:
    """Return where a tensor's numbers lie."""
    return tensor.untyped_storage().data_ptr()


@torch.no_grad()
def probe(problem: Problem) -> None:
    """Ask a problem's flow the same questions twice, at the start and later, and some noises alone.

    Raises:
        UserError: if the answers differ, share their memory, or are no velocities; if the flow is a flow map,
            but the solver is not Euler.
    """
    flow, student = problem.flow, problem.student
    if problem.of_map and problem.solver != "euler":
        raise UserError(
            f"the steps of a flow map are Euler steps, and grids of {problem.solver} are searched: set the "
            "solver to euler"
        )
    later = (flow.t_start + flow.t_end) / 2 if student is None else student.grid.times[-2]
    times = (flow.t_start, later)
    for noise, conditions in islice(problem.noise.batches(*PROBED), 1):
        given = noise.clone()
        answers = [flow(noise, t, **conditions) for t in times * 2]
        few = max(len(noise) // 2, 1)
        alone = flow(noise[:few], times[0], **{name: values[:few] for name, values in conditions.items()})
        if not torch.equal(noise, given):
            raise UserError(
                "the model changed the noise that it was given; let it compute a new tensor, also by numpy"
            )
        if any(memory(one) == memory(other) for one, other in combinations(answers, 2)):
            raise UserError(
                "the model answers twice in the same memory, so that one answer overwrites the other; let it "
                "return a new tensor, such as velocity.clone()"
            )
        for t, first, second in zip(times, answers, answers[2:], strict=False):
            if (first - second).abs().max() > SAME * first.abs().max():
                raise UserError(
                    f"the model is not deterministic: asked twice at t = {t:.4g} it gave velocities up to "
                    f"{float((first - second).abs().max()):.3g} apart; turn off dropout (model.eval()), and "
                    "whatever it remembers from call to call"
                )
        if (alone - answers[0][:few]).abs().max() > ALONE * answers[0].abs().max():
            raise UserError(
                f"at t = {times[0]:.4g} a sample's velocity depends on the others in its batch, by up to "
                f"{float((alone - answers[0][:few]).abs().max()):.3g}; let batch normalisation keep its "
                "statistics (model.eval())"
            )
