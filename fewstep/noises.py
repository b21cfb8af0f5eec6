"""Laws of the noise that a flow starts from: normal, or Student-t, which is PFGM++ in canonical time.

A law says how noise is drawn, and how noise of it becomes standard normal, so that all can be checked alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports
from fewstep.paths import Path, like
from fewstep.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports(error_callback=brought_by("metrics", what="a check of Student-t noise", library="scipy")):
    from scipy import special


@dataclass(frozen=True)
class Gaussian:
    """Standard normal noise. It has no options."""

    def draw(self, stream: str, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the noise, float32 (n, *shape), of the samples named by `keys`; see fewstep.randomness."""
        return randomness.noises(stream, keys, shape)

    def as_normal(self, noise: np.ndarray) -> np.ndarray:
        """Return what is standard normal if `noise`, (n, *shape), is of this law: here the noise itself."""
        return noise

    def named(self) -> str | dict[str, Any]:
        """Return what `get` makes it of."""
        return "gaussian"

    def told(self) -> str:
        """Return the law in words."""
        return "standard normal"


@dataclass(frozen=True)
class StudentT:
    """Multivariate Student-t noise, the perturbation of PFGM++ with `degrees` augmented dimensions D.

    Xu et al. 2023 (arXiv 2302.04265), eq. 5, perturb data by a kernel proportional to
    (|x|^2 + r^2)^(-(N + D) / 2) for N coordinates and r = sigma sqrt(D). That is sigma g sqrt(D / w) with g
    standard normal and w chi-squared with D degrees of freedom, one for the whole sample. Velocity, target
    and samplers are those of normal noise. Infinite D is `Gaussian`.

    Raises:
        UserError: if degrees are not above 2: the variance, D / (D - 2), and losses would have no bound.
    """

    degrees: float = 128.0

    def __post_init__(self) -> None:
        known = isinstance(self.degrees, int | float) and not isinstance(self.degrees, bool)
        if not known or not self.degrees > 2:
            raise UserError(
                "noise student_t: degrees must be a number above 2, where its variance is finite, or .inf, "
                f"got {self.degrees!r}"
            )
        object.__setattr__(self, "degrees", float(self.degrees))

    def draw(self, stream: str, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See Gaussian.draw; its normal part is that of the same stream and keys."""
        normal = randomness.noises(stream, keys, shape)
        if math.isinf(self.degrees):
            return normal
        spread = randomness.chi_squared(f"{stream}.radius", keys, self.degrees)
        return normal * like((self.degrees / spread).sqrt().to(normal), normal)

    def as_normal(self, noise: np.ndarray) -> np.ndarray:
        """See Gaussian.as_normal: each sample keeps its direction and the quantile of its norm.

        |x|^2 / (|x|^2 + D) has the law Beta(N / 2, D / 2), |g|^2 is chi-squared with N degrees of freedom.
        """
        if math.isinf(self.degrees):
            return noise
        flat = noise.reshape(len(noise), -1).astype(np.float64)
        squares, half, degrees = (flat**2).sum(1), flat.shape[1] / 2, self.degrees / 2
        inside = squares / (squares + self.degrees)
        normal = np.where(  # from the nearer end, where a quantile has all its digits
            special.betainc(half, degrees, inside) < 0.5,
            special.gammaincinv(half, special.betainc(half, degrees, inside)),
            special.gammainccinv(half, special.betaincc(half, degrees, inside)),
        )
        scale = np.sqrt(2 * normal / np.maximum(squares, np.finfo(np.float64).tiny))
        return (flat * scale[:, None]).reshape(noise.shape)

    def named(self) -> str | dict[str, Any]:
        """See Gaussian.named."""
        return {"name": "student_t"} | asdict(self)

    def told(self) -> str:
        """See Gaussian.told."""
        return f"student_t with {self.degrees:g} degrees"


Law = Gaussian | StudentT
GAUSSIAN = Gaussian()
LAWS: dict[str, type[Law]] = {"gaussian": Gaussian, "student_t": StudentT}


def get(noise: str | Mapping[str, Any]) -> Law:
    """Return a law by its name, or by a mapping of its name and its options.

    Raises:
        UserError: if there is no such law or option; the message lists those that exist. Also if degrees of
            Student-t noise are not above 2.
    """
    options = {"name": noise} if isinstance(noise, str) else dict(noise)
    name = str(options.pop("name", None))
    if name not in LAWS:
        raise UserError(unknown("noise", name, list(LAWS)))
    known = list(LAWS[name].__dataclass_fields__)
    for option in options.keys() - set(known):
        raise UserError(f"noise {name}: {unknown('option', option, known or ['none'])}")
    law = LAWS[name](**options)
    return GAUSSIAN if isinstance(law, StudentT) and math.isinf(law.degrees) else law


def fact_of(noise: str | dict[str, Any]) -> dict[str, Any]:
    """Return what a set that was made of noise notes of its law: nothing if it is normal."""
    return {} if noise == "gaussian" else {"noise": noise}


def must_suit(law: Law, *, path: Path, prediction: str) -> None:
    """Refuse noise on whose law a path or a prediction depends.

    Raises:
        UserError: naming which.
    """
    if prediction == "score":
        must_be_normal(law, what="prediction score, the expected noise over -b,")
    if getattr(path, "gamma", 0):
        must_be_normal(law, what="a path with gamma, which adds a second noise to the first,")


def must_be_normal(law: Law, *, what: str) -> None:
    """Refuse noise that is not normal.

    Args:
        law: of the noise.
        what: holds for normal noise alone, for the message.

    Raises:
        UserError: naming both.
    """
    if isinstance(law, StudentT):
        raise UserError(
            f"{what} holds for normal noise alone, but the model's is {law.told()}; pretrain with noise: "
            "gaussian"
        )
