"""Trajectories: how that stage has a teacher followed, in whichever worker."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fewstep.grids import Grid
from fewstep.pairs import make_trajectories
from fewstep.shards.write import Make
from stages.process.device import device
from stages.sampling.open_model import open_flow
from stages.sampling.splits import Opened, model_folder
from stages.settings.fields import Precision


@dataclass(frozen=True)
class TrajectoryMaker:
    """All that decides a trajectory; see stages.trajectories.Config."""

    model: str
    """Where the model directory lies, a path or a URL."""
    purpose: str
    """Who asks, for messages."""
    seed: int
    fine: Grid
    """The steps that are taken."""
    timesteps: tuple[float, ...]
    """The times whose states are kept."""
    batch: int
    precision: Precision

    def ready(self) -> Make:
        """Return what makes samples by their numbers."""
        return self.open().make

    def open(self) -> Opened:
        """Open the teacher."""
        with model_folder(self.model) as folder:
            model, flow = open_flow(
                folder, purpose=self.purpose, guidance=self.fine.guidance, precision=self.precision
            )

        def make(start: int, stop: int) -> dict[str, Tensor]:
            return make_trajectories(
                flow,
                seed=self.seed,
                start=start,
                stop=stop,
                shape=model.config.shape,
                conditions=model.conditions,
                timesteps=self.timesteps,
                fine=self.fine,
                batch=self.batch,
                device=device(),
            )

        return Opened(make, model, flow, self.fine)

    def count(self, fields: Mapping[str, Tensor]) -> None:
        """Note nothing: trajectories are of the model that is searched, whose pairs are checked."""
