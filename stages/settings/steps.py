"""Which steps settings ask for and whether they can be taken, told without importing torch."""

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fewstep
from fewstep.data import path_of
from fewstep.errors import UserError
from fewstep.grids import Grid

if TYPE_CHECKING:
    from stages.couple import Config

SOLVERS = Path(fewstep.__file__).parent / "solvers"


def broken_steps(where: str, nfe: int, solver: str, guidance: float = 1.0) -> list[str]:
    """Return what is wrong with a setting that asks for `calls` network calls of `solver`."""
    each = velocities_per_step(solver) * (1 if guidance == 1 else 2)
    if nfe % each:
        return [f"{where} {nfe}: a step of {solver} takes {each} NFE here; ask for a multiple of {each}"]
    return []


def wrong_making(where: str, config: "Config") -> list[str]:
    """Return what is wrong with how settings of couple have pairs made or taken, all in all."""
    if config.source is not None:
        try:
            path_of(config.source)
        except UserError as error:
            return [f"{where}.{error}"]
        if config.noise == "drawn" and "noise" in config.model_fields_set:
            return [f"{where}.noise: that of pairs from {config.source} can't be drawn; remove this setting"]
    instead = {"tolerance": ("solver", "nfe", "spacing", "times"), "times": ("nfe", "spacing")}
    for name, others in instead.items():
        if getattr(config, name) is None:
            continue
        if doubled := [other for other in others if other in config.model_fields_set]:
            return [f"{where}.{doubled[0]} and {where}.{name} both choose the steps; remove one of them"]
    if config.tolerance is not None:
        return []
    if config.times is None:
        return broken_steps(f"{where}.nfe", config.nfe, config.solver, config.guidance)
    try:
        Grid(config.times)
    except UserError as error:
        return [f"{where}.times: {error}"]
    return []


def steps_taken(config: "Config") -> dict[str, Any]:
    """Return what is to be known of the steps that make pairs, by the settings of couple."""
    if config.tolerance is not None:
        return {"solver": "dopri5", "tolerance": config.tolerance}
    if config.times is None:
        return {"solver": config.solver, "nfe": config.nfe, "spacing": config.spacing}
    each = velocities_per_step(config.solver) * (1 if config.guidance == 1 else 2)
    return {"solver": config.solver, "nfe": each * (len(config.times) - 1), "times": list(config.times)}


def velocities_per_step(solver: str) -> int:
    """Return the velocities that one step of a solver asks for, as its file says."""
    for node in ast.walk(ast.parse((SOLVERS / f"{solver}.py").read_text())):
        names = [getattr(target, "id", None) for target in getattr(node, "targets", [])]
        if isinstance(node, ast.Assign) and names == ["velocities_per_step"]:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{solver}.py lacks velocities_per_step")
