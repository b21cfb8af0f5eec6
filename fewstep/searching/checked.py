"""A flow that is watched: what a search could not notice later is refused at the call."""

from itertools import islice

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.finite import refuse_not_finite
from fewstep.flow import Flow, batch_times
from fewstep.searching.problem import Problem

PROBED = ("search", 32)  # whose noises are asked about twice, and how many
SAME = 1e-3  # relative difference up to which two answers count as one; kernels of GPUs vary by less


class Checked:
    """A flow whose every velocity must have the state's shape and be finite."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.t_start, self.t_end = flow.t_start, flow.t_end
        self.nfe_per_velocity = flow.nfe_per_velocity

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow.

        Raises:
            UserError: if the velocity is no tensor of x's shape or not finite; the message says at which t.
        """
        velocity = self.flow(x, t, **conditions)
        if not isinstance(velocity, Tensor) or velocity.shape != x.shape:
            what = tuple(velocity.shape) if isinstance(velocity, Tensor) else type(velocity).__name__
            first = float(batch_times(t, x)[0])
            raise UserError(f"at t = {first:.4g} the velocity has shape {what}, the state {tuple(x.shape)}")
        refuse_not_finite("velocity", velocity, t)
        return velocity


@torch.no_grad()
def probe(problem: Problem) -> None:
    """Ask a problem's flow the same question twice, at the start and later.

    Raises:
        UserError: if the answers differ, or are no velocities.
    """
    flow, student = problem.flow, problem.student
    later = (flow.t_start + flow.t_end) / 2 if student is None else student.grid.times[-2]
    for noise, conditions in islice(problem.noise.batches(*PROBED), 1):
        for t in (flow.t_start, later):
            first, second = (flow(noise, t, **conditions) for _ in range(2))
            if (first - second).abs().max() > SAME * first.abs().max():
                raise UserError(
                    f"the model is not deterministic: asked twice at t = {t:.4g} it gave velocities up to "
                    f"{float((first - second).abs().max()):.3g} apart; turn off dropout (model.eval())"
                )
