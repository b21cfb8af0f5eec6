"""ExportedSampler: a model, its grid and its solver as one module, which torch.export can trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from fewstep import draws, flow, solvers
from fewstep.errors import UserError, first_line
from fewstep.grids import Grid
from fewstep.model import Model
from fewstep.units import in_units


class ExportedSampler(nn.Module):
    """Noise (batch, *shape), and by name what the model is conditioned on, to samples (batch, *shape).

    It computes in float32; samples are in the units of the data.

    Raises:
        UserError: the grid does not fit the model, or the model can't show that guidance.
    """

    def __init__(self, model: Model, grid: Grid, guidance: float) -> None:
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)
        self.guidance, self.flow = guidance, flow.as_flow(self.model, guidance=guidance)
        self.grid = grid
        solvers.must_fit(self.flow, grid)

        self._traced: ExportedProgram | None = None
        self.forward = with_names(self.sample, ("noise", *model.config.condition_names))

    def sample(self, noise: Tensor, **conditions: Tensor) -> Tensor:
        """Return the samples."""
        *_, x = solvers.trajectory(solvers.CountedFlow(self.flow, conditions), noise, self.grid)
        return in_units(x, self.model.config.units)

    def inputs(self, count: int) -> dict[str, Tensor]:
        """Return inputs of `count` samples, by name; always the same ones."""
        every = draws.draws_of(self.model, "export", 0, range(count), batch=count)
        noise, conditions = next(every)
        return {"noise": noise, **conditions}

    def traced(self) -> ExportedProgram:
        """Return the graph of `forward`, for any batch; made once.

        Raises:
            UserError: torch.export can't trace the network, or the network refuses its inputs.
        """
        if self._traced is not None:
            return self._traced
        conditions = self.inputs(2)  # one would be taken for a constant
        noise, batch = conditions.pop("noise"), {0: Dim("batch")}
        shapes = {"noise": batch, **dict.fromkeys(conditions, batch)}
        try:
            with torch.no_grad():
                self._traced = torch.export.export(self, (noise,), conditions, dynamic_shapes=shapes)
        except UserError:
            raise
        except Exception as error:  # whatever the code of a network runs into when it is traced
            name = self.model.config.architecture["name"]
            raise UserError(
                f"torch.export can't trace the model {name!r} ({reason(error)}); its network may not "
                "branch on values of tensors, nor on len() of one: x.shape[0] stays open"
            ) from error
        forget_places(self._traced)
        return self._traced


def forget_places(program: ExportedProgram) -> None:
    """Remove from a graph where in which file each of its nodes comes from: other folders, the same bytes."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)


def with_names(sample: Callable[..., Tensor], names: Sequence[str]) -> Callable[..., Tensor]:
    """Return the function with its arguments by name: torch.export can't trace one that takes any names."""

    def forward(*noise: Tensor, **conditions: Tensor) -> Tensor:
        return sample(*noise, **conditions)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # which inspect reads
    return forward


def reason(error: BaseException) -> str:
    """Return the first line of what the first cause of an error says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
