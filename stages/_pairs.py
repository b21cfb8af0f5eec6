"""Pairs: how the couple stage has a model make them, in whichever worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fewstep.couplings.teacher import make_pairs
from stages._flows import device, grid_of_calls, open_flow
from stages._making import Opened, model_folder


@dataclass(frozen=True)
class PairMaker:
    """All that decides a pair; see stages.couple.Config."""

    unit: ClassVar[str] = "pair"
    model: str
    """Where the model directory lies, a path or a URL."""
    purpose: str
    """Who asks, for messages."""
    seed: int
    solver: str
    calls: int
    guidance: float
    batch: int

    def open(self) -> Opened:
        """Open the model, and return what makes pairs by their numbers."""
        with model_folder(self.model) as folder:
            model, flow = open_flow(folder, purpose=self.purpose, guidance=self.guidance)
        grid, shape, classes = (
            grid_of_calls(flow, self.solver, self.calls),
            model.config.shape,
            model.config.classes,
        )

        def make(start: int, stop: int) -> dict[str, Tensor]:
            return make_pairs(
                flow,
                seed=self.seed,
                start=start,
                stop=stop,
                shape=shape,
                classes=classes,
                grid=grid,
                batch=self.batch,
                device=device(),
            )

        return Opened(make, model, flow)

    def count(self, fields: Mapping[str, Tensor]) -> Any:
        """Return nothing yet."""
        return None
