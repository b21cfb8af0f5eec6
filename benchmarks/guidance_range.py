"""What one student that takes guidance as an input costs against a student of each scale.

    python -m benchmarks.guidance_range

The teacher and its classes are those of benchmarks.second_guidance. Students are trained by `consistency`
and jump to data in one call. The RMSE is to where fine runs of the teacher under the same guidance end,
from the same noise, over all coordinates; the energy distance is between both sets of samples.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.second_guidance import CLASSES, FINE, MEANS, SAMPLES, STD, Exact, drawn, energy
from fewstep import grids, randomness
from fewstep.flow import as_flow
from fewstep.methods.consistency import Consistency
from fewstep.model import Model, ModelConfig, build
from fewstep.solvers import integrate
from fewstep.training.needed_inputs import with_needed

STEPS, BATCH, SEEDS = 1000, 256, 3
RANGE, SCALES = (1.0, 4.0), (1.0, 2.0, 4.0)
SHARES = (1 / CLASSES,) * CLASSES


def of(**architecture: object) -> ModelConfig:
    """Return the config of a model of the classes."""
    return ModelConfig(architecture=architecture, shape=(2,), classes=CLASSES, class_shares=SHARES)


def trained(teacher: Model, guidance: float | tuple[float, float], seed: int) -> Model:
    """Return a student of the teacher under one guidance, or under a range of it."""
    method = Consistency(guidance=guidance, decay=0.0)
    untrained = build(of(name="mlp", width=64, depth=2), seed=seed)
    student = with_needed(untrained, method.needs, seed=seed)
    student = Model(replace(student.config, grid=grids.uniform(1), **method.trained()), student.network)
    optimiser = torch.optim.Adam(student.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    nets = {"student": student, "target": student, "teacher": teacher}
    for step in range(STEPS):
        keys = randomness.keys_of(seed, step * BATCH, (step + 1) * BATCH)
        label = randomness.labels("label", keys, SHARES)
        batch = {"data": MEANS[label] + STD * randomness.noises("data", keys, (2,)), "label": label}
        loss = method.loss(nets, batch, "student", step / STEPS, keys).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return student.eval()


@torch.no_grad()
def measured(teacher: Model, student: Model, asked: float, shown: float) -> tuple[float, float]:
    """Return how far the student, asked for a guidance, is from the teacher under that which it shows."""
    noise, label = drawn(SAMPLES, 1001)
    own = integrate(as_flow(student, guidance=asked), noise, grids.uniform(1), label=label).x
    wanted = integrate(as_flow(teacher, guidance=shown), noise, FINE, label=label).x
    return float((own - wanted).square().mean().sqrt()), energy(own, wanted)


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    teacher = Model(of(name="exact"), Exact())
    students = [trained(teacher, RANGE, seed) for seed in range(SEEDS)]
    yield "| guidance | RMSE, one for all | RMSE, one each | energy distance, one for all | one each |"
    yield "|---|---|---|---|---|"
    for scale in SCALES:
        alone = [trained(teacher, scale, seed) for seed in range(SEEDS)]
        of_all = torch.tensor([measured(teacher, student, scale, scale) for student in students])
        of_one = torch.tensor([measured(teacher, student, 1.0, scale) for student in alone])
        cells = [
            f"{found[:, column].mean():.{digits}f} ± {found[:, column].std():.{digits}f}"
            for column, digits in ((0, 3), (1, 4))
            for found in (of_all, of_one)
        ]
        yield f"| {scale:g} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
