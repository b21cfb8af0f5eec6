"""Averages of the weights over a training by powers of the step, and any other of them afterwards.

The power-function averages of EDM2, Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C: at step
t, the weights of step s <= t count by (gamma + 1) s^gamma / t^(gamma + 1). The width of an average is the
standard deviation of that profile relative to t. Some averages of two widths, kept at several steps, give
those of other widths: the combination whose profile is nearest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.files import written_whole
from fewstep.lazy import lazy_imports
from fewstep.settings import WIDEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import numpy as np
    import safetensors
    import safetensors.torch

    from fewstep import checkpoint, lora

FOLDER = "averages"
"""Of a model directory; `<step>.safetensors` there holds the averages at a step, `<width>/<weight>`."""


@dataclass(frozen=True)
class Profile:
    """How much the weights of each step count in an average."""

    step: float
    """That of the average, from 1."""
    gamma: float

    def inner(self, other: Profile) -> float:
        """Return the integral of the product of two profiles over the steps."""
        first, last = sorted((self, other), key=lambda profile: profile.step)
        ratio = (first.step / last.step) ** last.gamma
        return (first.gamma + 1) * (last.gamma + 1) * ratio / ((first.gamma + last.gamma + 1) * last.step)


def gamma_of(width: float) -> float:
    """Return the exponent of the average of a relative width: the root of a cubic."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def decay(updates: int, gamma: float) -> float:
    """Return what the average keeps of itself in an update that comes after `updates`."""
    return (updates / (updates + 1)) ** (gamma + 1)


def combination(kept: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """Return the weights, (len(kept),), with which averages are nearest to another.

    They sum to 1, as each profile does: a sum of another size would scale the weights of the network.
    """
    among = wanted.step * np.array([[one.inner(other) for other in kept] for one in kept])
    towards = wanted.step * np.array([one.inner(wanted) for one in kept])
    constrained = np.pad(among, (0, 1), constant_values=1.0)  # with a Lagrange multiplier for the sum
    constrained[-1, -1] = 0.0
    return np.linalg.lstsq(constrained, np.append(towards, 1.0), rcond=1e-14)[0][:-1]


def save(file: Path, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
    """Write the averages of one step, by width and name; whole tensors on the CPU."""
    tensors = {f"{width:g}/{name}": t for width, ts in averages.items() for name, t in ts.items()}
    with written_whole(file) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def averaged(folder: Path, width: float) -> Model:
    """Return the model of a directory with the average of another width at the last step.

    Raises:
        UserError: if the width can't be, or the directory holds no averages, or those of one other width.
    """
    if not 0 < width <= WIDEST:
        raise UserError(f"the width of an average is above 0 and up to {WIDEST}, got {width}")
    model = checkpoint.load_model(folder, merge=False)
    files = {float(file.stem): file for file in sorted((folder / FOLDER).glob("*.safetensors"))}
    if not files:
        raise UserError(
            f"{folder} holds no averages to combine; train it with widths, such as train.widths: [0.05, 0.1]"
        )
    kept: list[tuple[Profile, str, Path]] = []
    for step, file in files.items():
        with safetensors.safe_open(file, framework="pt") as stored:
            widths = {re.split("/", name, maxsplit=1)[0] for name in stored.keys()}  # noqa: SIM118, no dict
        kept += [(Profile(step, gamma_of(float(one))), one, file) for one in sorted(widths)]
    if len(there := {one for _, one, _ in kept}) == 1 and float(*there) != width:
        raise UserError(
            f"{folder} holds averages of the width {min(there)} alone; for others, train with two widths"
        )
    parts = combination([profile for profile, *_ in kept], Profile(max(files), gamma_of(width)))
    mixed: dict[str, Tensor] = {}
    for part, (_, one, file) in zip(parts, kept, strict=True):
        with safetensors.safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118, no dict
                if name.startswith(f"{one}/"):
                    weight = name.removeprefix(f"{one}/")
                    tensor = stored.get_tensor(name).double() * part
                    mixed[weight] = mixed[weight] + tensor if weight in mixed else tensor
    held = model.state_dict()
    model.load_state_dict(held | {name: tensor.to(held[name].dtype) for name, tensor in mixed.items()})
    return lora.merged(model)
