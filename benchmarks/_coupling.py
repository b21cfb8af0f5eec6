"""A coupling as the couple stage makes it, of a teacher with random weights."""

from pathlib import Path

from fewstep.checkpoint import save_model
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN
from fewstep.progress import SILENT
from fewstep.shards import Shards
from stages.run.job import Job
from stages.sampling.pairs import PairMaker
from stages.sampling.splits import splits

UNET = {"name": "unet", "width": 16, "multipliers": [1, 2]}  # the demo's
MLP = {"name": "mlp", "width": 64, "depth": 2}


def teacher(folder: Path, architecture: dict, shape: tuple[int, ...]) -> Path:
    """Write the model directory of a network with the weights it starts from, and return it."""
    save_model(folder, build(ModelConfig(architecture=architecture, shape=shape), seed=0))
    return folder


def maker(model: Path, *, nfe: int, batch: int = 128) -> PairMaker:
    """Return what makes pairs with Heun steps."""
    return PairMaker(
        model=str(model),
        purpose="a benchmark",
        seed=0,
        solver="heun",
        nfe=nfe,
        spacing="uniform",
        law=GAUSSIAN,
        times=None,
        tolerance=None,
        guidance=1.0,
        precision="float32",
        batch=batch,
        total=1_000_000,
    )


def couple(folder: Path, made_by: PairMaker, *, pairs: int, per_shard: int = 1024) -> dict[str, Shards]:
    """Make a coupling in `folder`, or resume one, with as many workers as the environment says."""
    job = Job(
        stage="couple",
        key="benchmark",
        seed=0,
        inputs={},
        out=folder / "out",
        scratch=folder / "work",
        result="couple@benchmark.0",
        progress=SILENT,
        picture=lambda name, file: None,
    )
    wanted = splits(
        job,
        train=pairs,
        held_out=256,
        per_shard=per_shard,
        facts={"about": "a benchmark"},
        dtypes={"noise": "float16", "data": "float16"},
    )
    return wanted.make(made_by)
