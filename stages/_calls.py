"""Whether calls make whole solver steps, told from the solver's file without importing torch."""

import ast
from pathlib import Path

import fewstep

SOLVERS = Path(fewstep.__file__).parent / "solvers"


def broken_steps(where: str, calls: int, solver: str, guidance: float = 1.0) -> list[str]:
    """Return what is wrong with a setting that asks for `calls` network calls of `solver`."""
    each = velocities_per_step(solver) * (1 if guidance == 1 else 2)
    if calls % each:
        return [f"{where} {calls}: a step of {solver} takes {each} calls here; ask for a multiple of {each}"]
    return []


def velocities_per_step(solver: str) -> int:
    """Return the velocities that one step of a solver asks for, as its file says."""
    for node in ast.walk(ast.parse((SOLVERS / f"{solver}.py").read_text())):
        names = [getattr(target, "id", None) for target in getattr(node, "targets", [])]
        if isinstance(node, ast.Assign) and names == ["velocities_per_step"]:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{solver}.py lacks velocities_per_step")
