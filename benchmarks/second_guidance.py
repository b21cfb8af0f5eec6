"""What a second guidance does to a model that was reflowed on guided pairs with hidden labels.

    python -m benchmarks.second_guidance

Classes are Gaussians of one spread in the plane, of which the teacher is exact. For each guidance of the
pairs an mlp is reflowed, then sampled under a second one. Class accuracy is by the nearest mean, the energy
distance is to the exact teacher's samples under the product of both scales, of the same labels.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from fewstep import grids, randomness
from fewstep.flow import as_flow
from fewstep.methods.reflow import Reflow
from fewstep.model import Model, ModelConfig, build
from fewstep.solvers import integrate

MEANS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
STD, CLASSES = 0.5, 4
PAIRS, STEPS, BATCH, SAMPLES = 4096, 600, 256, 2000
FINE = grids.uniform(32, solver="heun")
FIRST, SECOND = (1.0, 2.0, 4.0), (1.0, 1.5, 2.0)


class Exact(nn.Module):
    """The velocity of each class, and of the mixture for the class after the last."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return it, (n, 2), at times t, (n,)."""
        a, b = t[:, None, None], 1 - t[:, None, None]
        variance = a**2 * STD**2 + b**2
        off = x[:, None] - a * MEANS
        each = MEANS + (a * STD**2 - b) * off / variance  # (n, classes, 2)
        share = torch.softmax(-(off**2).sum(2) / (2 * variance[:, :, 0]), dim=1)
        mixed = (share[..., None] * each).sum(1)
        own = each[torch.arange(len(x)), label.clamp(max=CLASSES - 1)]
        return torch.where((label == CLASSES)[:, None], mixed, own)


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noise (n, 2) and labels (n,)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=draw), torch.randint(CLASSES, (n,), generator=draw)


def reflowed(teacher: Model, guidance: float, seed: int) -> Model:
    """Return a model that learnt from pairs under that guidance, with a tenth of the labels hidden."""
    noise, label = drawn(PAIRS, seed)
    with torch.no_grad():
        data = integrate(as_flow(teacher, guidance=guidance), noise, FINE, label=label).x
    method = Reflow(label_dropout=0.1)
    architecture = {"name": "mlp", "width": 64, "depth": 2}
    config = ModelConfig(architecture=architecture, shape=(2,), classes=CLASSES, class_shares=(0.25,) * 4)
    student = build(replace(config, baked_guidance=guidance, **method.trained()), seed=seed)
    optimiser = torch.optim.Adam(student.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    draw = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        rows = torch.randint(PAIRS, (BATCH,), generator=draw)
        batch = {"noise": noise[rows], "data": data[rows], "label": label[rows]}
        keys = randomness.keys_of(seed, step * BATCH, (step + 1) * BATCH)
        loss = method.loss({"student": student}, batch, "student", step / STEPS, keys).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return student.eval()


def energy(one: Tensor, other: Tensor) -> float:
    """Return the energy distance of two sets of samples (n, d)."""
    within = torch.cdist(one, one).mean() + torch.cdist(other, other).mean()
    return float(2 * torch.cdist(one, other).mean() - within)


@torch.no_grad()
def measured(teacher: Model, student: Model, first: float, second: float) -> tuple[float, float, float]:
    """Return the class accuracy of the student, that of the teacher under the product, their distance."""
    noise, label = drawn(SAMPLES, 1001)
    end = integrate(as_flow(student, guidance=second), noise, FINE, label=label).x
    fresh = drawn(SAMPLES, 1002)[0]
    wanted = integrate(as_flow(teacher, guidance=first * second), fresh, FINE, label=label).x
    told = (torch.cdist(x, MEANS).argmin(1) == label for x in (end, wanted))
    own, exact = (float(right.double().mean()) for right in told)
    return own, exact, energy(end, wanted)


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    config = ModelConfig(
        architecture={"name": "exact"}, shape=(2,), classes=CLASSES, class_shares=(0.25,) * 4
    )
    teacher = Model(config, Exact())
    yield "| pairs | then | class accuracy | teacher by the product | energy distance to it |"
    yield "|---|---|---|---|---|"
    for first in FIRST:
        students = [reflowed(teacher, first, seed) for seed in range(3)]
        for second in SECOND:
            found = torch.tensor([measured(teacher, student, first, second) for student in students])
            (own, exact, far), spread = found.mean(0).tolist(), found.std(0).tolist()
            yield (
                f"| {first:g} | {second:g} | {own:.3f} ± {spread[0]:.3f} | {exact:.3f} | "
                f"{far:.4f} ± {spread[2]:.4f} |"
            )


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
