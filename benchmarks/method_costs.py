"""What a step of each training method costs, over a step of plain regression (`reflow`).

Run `python -m benchmarks.method_costs [rounds]`; minutes for 30 rounds. Batches of 128 images of 1x8x8, the
U-Net of the demo for student and teacher, one thread, options as they are by default but for those that are
named. In each round all methods take a step in turn; a ratio is the median over rounds of that round's times,
of the processor. Memory is the most that a step has allocated at a time, beside what is held between steps.
"""

import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks._coupling import UNET
from fewstep import grids, randomness, registry
from fewstep.model import Model, ModelConfig, build
from fewstep.refining import refiner_for
from fewstep.settings import TrainSettings
from fewstep.training.footprint import rise
from fewstep.training.method import Batch, Method
from fewstep.training.needed_inputs import with_needed
from fewstep.training.networks import Training

SHAPE, BATCH, PLAIN, FEW = (1, 8, 8), 128, "reflow", 4
REFINER = {"name": "unet", "width": 4, "multipliers": [1]}
ONE_STEP = ("endpoint", "flow_guided", "consistency")
"""What is measured as a student of one step; other students of a grid have FEW."""
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sim": [
        {"fake_warmup": 0},
        {"fake_warmup": 0, "nfe": 1},
        {"fake_warmup": 0, "gan_weight": 19.2},
    ],
    "dmd": [
        {"fake_warmup": 0},
        {"fake_warmup": 0, "nfe": 1},
        {"fake_warmup": 0, "through": "last"},
        {"fake_warmup": 0, "gan_weight": 19.2},
    ],
    "anyflow": [{"fake_warmup": 0}, {"fake_warmup": 0, "map_weight": 1.0}],
    "flow_map_distillation": [
        *({"identity": name} for name in ("lagrangian", "eulerian", "semigroup")),
        *({"identity": name, "exact": True} for name in ("lagrangian", "eulerian")),
    ],
    "meanflow": [{}, {"exact": True}],
    "phased": [{}, {"learn_from": "data"}],
    "consistency": [{"kind": "discrete"}, {"kind": "continuous"}, {"kind": "continuous", "exact": True}],
}
"""Options that are measured, where the defaults are not all; fake_warmup is 0, for the steps after it."""


@dataclass(frozen=True)
class Case:
    """A method that trains the networks of the demo."""

    label: str
    training: Training
    batch: Batch

    def step(self) -> None:
        """Train for one step."""
        first = self.training.step * BATCH
        self.training.take_step(self.batch, randomness.keys_of(0, first, first + BATCH))


def model(nfe: int = FEW) -> Model:
    """Return an untrained network of the demo."""
    return build(ModelConfig(architecture=UNET, shape=SHAPE, grid=grids.uniform(nfe)), seed=0)


def student_of(method: Method, nfe: int) -> Model:
    """Return a student such as the stages give the method."""
    needs, student = method.needs, model(nfe)
    if needs.last_velocity:
        return refiner_for(student, REFINER, seed=0)
    return with_needed(student, needs, seed=0)


def cases(rounds: int) -> list[Case]:
    """Return all methods, each with a training that has not begun."""
    settings = TrainSettings(steps=rounds + 2, batch=BATCH)
    keys, t = randomness.keys_of(0, 0, BATCH), torch.linspace(0, 1, FEW + 1)
    noise, data = (randomness.noises(part, keys, SHAPE) for part in ("noise", "data"))
    states = torch.stack([torch.lerp(noise, data, float(time)) for time in t], dim=1)
    batch = {"noise": noise, "data": data, "states": states, "times": t.expand(BATCH, -1)}
    found = []
    for name in registry.available("fewstep.methods"):
        for options in OPTIONS.get(name, [{}]):
            chosen = dict(options)
            nfe = chosen.pop("nfe", 1 if name in ONE_STEP else FEW)
            method = registry.find("fewstep.methods", name)(**chosen)
            training = Training(
                method, student_of(method, nfe), lambda _: model(), settings, 0, torch.device("cpu")
            )
            told = [f"{option}: {value}" for option, value in chosen.items() if option != "fake_warmup"]
            told += [f"{nfe} NFE"] if method.trained_times == "grid" else []
            found.append(Case(", ".join([f"`{name}`", *told]), training, batch))
    return found


def main(rounds: int) -> None:
    """Print a row for each method."""
    torch.set_num_threads(1)
    every = cases(rounds)
    for case in every:
        case.step()  # makes the optimiser's moments
    memory = {case.label: rise(case.step, torch.device("cpu")) for case in every}
    spent: dict[str, list[float]] = {case.label: [] for case in every}
    for _ in range(rounds):
        for case in every:
            began = time.process_time()
            case.step()
            spent[case.label].append(time.process_time() - began)
    plain = next(case.label for case in every if case.label.startswith(f"`{PLAIN}`"))
    print("| method | networks | ms | over plain | MiB | over plain |\n|---|---|---|---|---|---|")
    for case in every:
        times = spent[case.label]
        ratio = median(own / other for own, other in zip(times, spent[plain], strict=True))
        size = memory[case.label]
        print(
            f"| {case.label} | {len(case.training.modules)} | {1000 * median(times):.0f} | {ratio:.1f} "
            f"| {size / 2**20:.0f} | {size / memory[plain]:.1f} |"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 50)
