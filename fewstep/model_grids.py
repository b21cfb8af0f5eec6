"""The grid that a model is sampled with: its own, one that was searched for it, or equal steps."""

from dataclasses import replace
from pathlib import Path

from fewstep import flow, grid_files, grids, solvers
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.model import ModelConfig


def choose(
    config: ModelConfig, steps: int | None, file: Path | None, solver: str | None, guidance: float
) -> Grid:
    """Return the grid of a model that is sampled or exported.

    Args:
        config: Of the model.
        steps: Their number; None for those of the model's own grid, or of the only grid of the file.
        file: Of grids that were searched, see fewstep.grid_files; None for the model's own, or equal steps.
        solver: The solver that takes equal steps; None for euler.
        guidance: The scale of classifier-free guidance with which it takes them.

    Raises:
        UserError: The file has no such grid, or the model can't take so many steps, or nothing says how many;
            or a solver is named that is not the grid's own.
    """
    if file is not None:
        return _by_its_solver(grid_files.read(file, steps), solver)
    own = config.grid and replace(config.grid, model_digest=None)  # which names its teacher
    if own is not None and config.guidance_range is not None:
        own = replace(own, guidance=guidance)
    if own is not None and steps in (None, own.steps):
        return _by_its_solver(own, solver)
    if own is not None and config.trained_times != "all":
        raise UserError(
            f"this student was trained for its own {own.steps} steps alone; leave the number of steps out"
        )
    if steps is None:
        raise UserError(
            "this model has no grid of its own; give the number of steps, or a grid that was searched for it"
        )
    solver = solver or "euler"
    solvers.get(solver)
    start, end = flow.usable_times(config.path, config.prediction)
    return grids.uniform(steps, start=start, end=end, solver=solver, guidance=guidance)


def _by_its_solver(grid: Grid, solver: str | None) -> Grid:
    if solver not in (None, grid.solver):
        raise UserError(
            f"the solver {solver} is for equal steps: this grid of {grid.steps} steps is for {grid.solver}; "
            "leave the solver out"
        )
    return grid
