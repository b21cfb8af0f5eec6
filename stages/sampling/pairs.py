"""Pairs: how the couple stage has a model make them, in whichever worker."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.checkpoint import load_config, model_digest
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.pairs import PairStatistics, make_pairs
from fewstep.reference import Adaptive
from fewstep.shards import drawn
from fewstep.shards.write import Make
from stages.process.device import device, grid_of_nfe, open_flow
from stages.run.job import Job
from stages.sampling.makers import Opened, model_folder
from stages.sampling.splits import Splits, splits
from stages.settings.steps import steps_taken

if TYPE_CHECKING:
    from stages.couple import Config


@dataclass(frozen=True, kw_only=True)
class PairMaker:
    """All that decides a pair; see stages.couple.Config."""

    model: str
    """Where the model directory lies, a path or a URL."""
    purpose: str
    """Who asks, for messages."""
    seed: int
    solver: str
    nfe: int
    spacing: str
    times: tuple[float, ...] | None
    tolerance: float | None
    guidance: float
    batch: int
    total: int
    """Pairs in all."""

    def ready(self) -> Make:
        """Return what makes samples by their numbers."""
        return self.open().make

    def open(self) -> Opened:
        """Open the model."""
        with model_folder(self.model) as folder:
            model, flow = open_flow(folder, purpose=self.purpose, guidance=self.guidance)
        steps = self.steps(flow)

        def make(start: int, stop: int) -> dict[str, Tensor]:
            return make_pairs(
                flow,
                seed=self.seed,
                start=start,
                stop=stop,
                shape=model.config.shape,
                classes=model.config.classes,
                grid=steps,
                batch=self.batch,
                device=device(),
            )

        return Opened(make, model, flow, steps)

    def steps(self, flow: Flow) -> Grid | Adaptive:
        """Return the steps that are taken, or the tolerance that they are to meet."""
        if self.tolerance is not None:
            return Adaptive(self.tolerance)
        if self.times is not None:
            return Grid(self.times, solver=self.solver)
        return grid_of_nfe(flow, self.solver, self.nfe, spacing=self.spacing)

    def count(self, fields: dict[str, Tensor]) -> str:
        """Return what is to be known of the pairs of a shard without a network."""
        return PairStatistics.of(fields, total=self.total).to_json()


def coupling(config: "Config", job: Job) -> tuple[Splits, PairMaker]:
    """Return the pairs that the settings of couple ask for, and how a model makes them."""
    maker = PairMaker(
        model=str(job.inputs["model"].resolve()),
        purpose=f"couple@{job.key}",
        seed=job.seed,
        solver=config.solver,
        nfe=config.nfe,
        spacing=config.spacing,
        times=config.times,
        tolerance=config.tolerance,
        guidance=config.guidance,
        batch=config.batch,
        total=config.pairs + config.held_out,
    )
    facts = {"model": model_digest(job.inputs["model"]), "seed": job.seed, "guidance": config.guidance}
    options = {"mirror": config.mirror, "source": config.source}
    draws = config.noise == "drawn" and not config.source
    shape = load_config(job.inputs["model"]).shape
    wanted = splits(
        job,
        train=config.pairs,
        held_out=config.held_out,
        per_shard=config.pairs_per_shard,
        facts=facts | steps_taken(config) | {name: value for name, value in options.items() if value},
        dtypes=dict.fromkeys(["data"] if draws else ["noise", "data"], config.dtype),
        drawn=lambda first: {"noise": drawn("couple", job.seed, first, shape)} if draws else {},
    )
    return wanted, maker
