"""Which steps settings ask for and whether they can be taken, found out without importing torch."""

from typing import Any

from pydantic import Field

from fewstep import solvers
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.spacings import Spacing
from stages.settings.fields import Guidance, Precision, Settings, SolverName, fact_of_precision

EXCLUDE = {  # settings that choose the steps, and those that they replace
    "tolerance": ("solver", "nfe", "spacing", "times"),
    "times": ("nfe", "spacing"),
}


class StepSettings(Settings):
    """Which steps a flow is integrated with."""

    solver: SolverName = "heun"
    """The solver, a file of fewstep.solvers."""
    nfe: int = Field(64, ge=1)
    """NFE of a sample: the network calls that it takes."""
    spacing: Spacing = "uniform"
    """How the steps are spaced; see fewstep.spacings."""
    times: tuple[float, ...] | None = None
    """The times to step through, from where the model starts (noise is 0) to 1; replaces nfe and spacing."""
    tolerance: float | None = Field(None, gt=0)
    """An adaptive solver keeps the error of each sample's steps below this, instead of solver and nfe."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale; 1 is none."""
    precision: Precision = "float32"
    """Type in which the network computes; states stay float32."""

    def wrong_steps(self, where: str) -> list[str]:
        """Return what is wrong with the steps; `where` is the section, for messages."""
        for name, others in EXCLUDE.items():
            if getattr(self, name) is None:
                continue
            if doubled := [other for other in others if other in self.model_fields_set]:
                return [f"{where}.{doubled[0]} and {where}.{name} both choose the steps; remove one of them"]
        if self.tolerance is not None:
            return []
        if self.times is None:
            return broken_steps(f"{where}.nfe", self.nfe, self.solver, self.guidance)
        try:
            Grid(self.times)
        except UserError as error:
            return [f"{where}.times: {error}"]
        return []

    def steps_asked_for(self) -> dict[str, Any]:
        """Return these settings by name, without those of a section that extends them."""
        return {name: getattr(self, name) for name in StepSettings.model_fields}

    def steps_taken(self) -> dict[str, Any]:
        """Return what a set of samples notes about the steps that made it."""
        precision = fact_of_precision(self.precision)
        if self.tolerance is not None:
            return {"solver": "dopri5", "tolerance": self.tolerance} | precision
        if self.times is None:
            return {"solver": self.solver, "nfe": self.nfe, "spacing": self.spacing} | precision
        nfe = solvers.velocities(self.solver, len(self.times) - 1) * (1 if self.guidance == 1 else 2)
        return {"solver": self.solver, "nfe": nfe, "times": list(self.times)} | precision


def broken_steps(where: str, nfe: int, solver: str, guidance: float = 1.0) -> list[str]:
    """Return what is wrong with a setting that asks for `nfe` NFE with `solver`."""
    twice = 1 if guidance == 1 else 2
    velocities, rest = divmod(nfe, twice)
    if not rest and solvers.steps_of(solver, velocities):
        return []
    each, first = twice * solvers.get(solver).velocities_per_step, twice * solvers.first_velocities(solver)
    told = f"{where} {nfe}: a step of {solver} takes {each} NFE here"
    if first:
        return [f"{told}, and the first {first} more; ask for {first} more than a multiple of {each}"]
    return [f"{told}; ask for a multiple of {each}"]
