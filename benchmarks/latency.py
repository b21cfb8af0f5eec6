"""How long a call of the networks takes that SlimFlow and FlowTurbo compare: the model's, smaller ones.

Run `python -m benchmarks.latency [rounds]`; a minute for 200 rounds. The networks are those of `params.yaml`,
`benchmarks.claims`, `benchmarks.claims_on_images` and `benchmarks.refiner`, with fresh weights, on one
thread. Printed are weights, multiply-accumulates of a call on a sample, milliseconds of the processor (the
median over rounds) of calls on 1 and on 128 samples, and these over the first network's of the same rounds.
"""

import sys
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from benchmarks._coupling import UNET
from benchmarks._latency import milliseconds, over
from benchmarks.claims import NARROW, SHAPE, WIDE
from benchmarks.claims_on_images import QUARTER
from benchmarks.method_costs import REFINER
from benchmarks.refiner import SMALL
from fewstep.conditions import LAST_VELOCITY
from fewstep.model import Model, ModelConfig, build
from fewstep.refining import refiner_for
from stages.evaluation.macs import macs_of

BATCHES = (1, 128)
FAMILIES = (
    ("digits", (1, 8, 8), UNET, {"a quarter of the weights": QUARTER}, REFINER),
    ("mixture", SHAPE, WIDE, {"an eighth of the weights": NARROW}, SMALL),
)


def networks() -> dict[str, dict[str, Model]]:
    """Return the networks of each family by name, the model's own the first."""
    found = {}
    for family, shape, own, smaller, refiner in FAMILIES:
        sizes = {"the model": own, **smaller}
        models = {
            name: build(ModelConfig(architecture=size, shape=shape), seed=0).eval()
            for name, size in sizes.items()
        }
        models["a refiner"] = refiner_for(models["the model"], refiner, seed=0).eval()
        found[family] = models
    return found


def call_of(model: Model, batch: int) -> Callable[[], object]:
    """Return a call of a network on so many samples."""
    x, t = torch.randn(batch, *model.config.shape), torch.rand(batch)
    return partial(model, x, t, **({LAST_VELOCITY: x} if model.config.refines else {}))


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    print("| network | weights | MACs | ms, 1 sample | over the model's | ms, 128 | over the model's |")
    print("|---|---|---|---|---|---|---|")
    for family, models in networks().items():
        calls = {(name, size): call_of(model, size) for name, model in models.items() for size in BATCHES}
        found = milliseconds({f"{name} {size}": call for (name, size), call in calls.items()}, rounds)
        for name, model in models.items():
            weights, cells = sum(p.numel() for p in model.parameters()), []
            for size in BATCHES:
                own = found[f"{name} {size}"]
                cells += [f"{median(own):.2f}", f"{over(own, found[f'the model {size}']):.2f}"]
            print(f"| {family}: {name} | {weights:,} | {macs_of(model):,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(*(int(rounds) for rounds in sys.argv[1:] or ["200"]))
