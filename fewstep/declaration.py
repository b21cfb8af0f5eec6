"""Is a model what it is declared to be? Its path, prediction and time, and the data it is for.

A model that is integrated with a wrong declaration still gives samples of some kind, and integrating back
tests it against itself. So data is noised to known canonical times t, and the data estimate that the
declaration implies is compared with two rivals:

- A diagonal Gaussian fit of the data, whose estimate has the mean squared error
  (1 - t)^2 v / (t^2 v + (1 - t)^2) in a dimension of variance v. A trained network is better: its error over
  that of the fit is below 1.
- The same network under other declarations, sample by sample on the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from fewstep import paths, predictions, randomness
from fewstep.conditions import must_be_given
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.network_times import NETWORK_TIMES

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model, ModelConfig

with lazy_imports():
    import torch

TIMES = (0.2, 0.35, 0.5, 0.65, 0.8)
STANDARD_ERRORS = 6.0  # by which another declaration must be better, over the samples
MARGIN = 0.03  # by which its ratio must be lower; what is nearer, such as 999 or 1000 times t, is a note
LATENT_SCALES = (0.18215, 0.13025, 1.5305, 0.3611)  # of Stable Diffusion 1, XL and 3, and Flux

PATHS: tuple[str | dict[str, Any], ...] = (
    "linear",
    "cosine",
    "vp",
    "ve",
    {"name": "table"},
    {"name": "table", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"name": "table", "beta_schedule": "squaredcos_cap_v2"},
)
SIGMA_DATA = (0.5, 1.0)  # of EDM and of CosXL, tried where the path is edm
CLOCKS: tuple[tuple[str, float], ...] = (
    ("t", 1.0),
    ("1-t", 1.0),
    ("t", 1000.0),
    ("1-t", 999.0),
    ("1-t", 1000.0),
    ("sigma", 1.0),
    ("log_sigma", 1.0),
    ("log_sigma", 0.25),
)


@dataclass(frozen=True)
class Declaration:
    """What is said of a network."""

    path: str | Mapping[str, Any]
    prediction: str
    time: str
    time_scale: float

    def unlike(self, other: Declaration) -> str:
        """Say what it declares otherwise than another, as lines of settings."""
        own, others = vars(self), vars(other)
        return ", ".join(f"{name}: {plain(own[name])}" for name in own if own[name] != others[name])


@dataclass(frozen=True)
class Verdict:
    """What the check found."""

    ratio: float
    """Squared error of the data estimate over that of a Gaussian fit, the mean over TIMES; right below 1."""
    problems: tuple[str, ...]
    """What is probably wrong, a sentence each."""
    notes: tuple[str, ...]
    calls: int
    """Calls of the network, each with all samples."""

    def told(self) -> str:
        """Return its numbers as a sentence."""
        return (
            f"its data estimate has {self.ratio:.3g} times the error of a Gaussian fit (right models are "
            f"below 1), after {self.calls} network calls"
        )


@dataclass(frozen=True)
class Rival:
    """Another declaration, or the same for other data."""

    told: str
    ratios: Tensor  # (n,)


def check(model: Model, data: Tensor, conditions: Mapping[str, Tensor], *, seed: int) -> Verdict:
    """Hold what a model is declared to be against data and other declarations.

    Args:
        model: Trained at all times.
        data: Samples of what it is for, (n, *shape); 128 are enough.
        conditions: Theirs, each (n, ...), as its network takes them.
        seed: Names the noise that is added.
    """
    c = model.config
    declared = Declaration(c.path, c.prediction, c.time, c.time_scale)
    asked = Answers(model, data, conditions, randomness.keys_of(seed, 0, len(data)))
    own = asked.ratios(declared)
    rivals = [Rival(other.unlike(declared), asked.ratios(other)) for other in others(declared)]
    for told, changed in changes(data):
        other = Answers(model, changed, conditions, asked.keys)
        rivals.append(Rival(told, other.ratios(declared)))
        asked.calls += other.calls
    return verdict_of(own, rivals, asked.calls)


def conditions_of(config: ModelConfig, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what samples are conditioned on: all of it, but for labels that the data lacks: then none.

    Raises:
        UserError: if the network needs what the data has not, or has of other classes or another shape.
    """
    must_be_given(config.conditions, samples, by="the data")
    others = {name: samples[name] for name in config.conditions}
    if not config.classes:
        return others
    if "label" in samples:
        if (most := int(samples["label"].max())) >= config.classes:
            raise UserError(
                f"the data has the label {most}, and the network knows classes 0 to {config.classes - 1}; "
                "prepare data of the network's classes"
            )
        return {"label": samples["label"], **others}
    if not config.guidable:
        raise UserError(
            f"the network needs labels of {config.classes} classes, and the data has none; prepare data "
            "with labels"
        )
    return others


def verdict_of(own: Tensor, rivals: list[Rival], calls: int) -> Verdict:
    """Return what the ratios of the declaration, (n,), and of its rivals mean."""
    ratio, problems, notes = float(own.mean()), [], []
    better = [rival for rival in rivals if z_score(own, rival.ratios) > STANDARD_ERRORS]
    best = min(better, key=lambda rival: float(rival.ratios.mean()), default=None)
    found = float(best.ratios.mean()) if best else ratio
    told = best and f"{best.told} (its ratio is {found:.3g}, z = {z_score(own, best.ratios):.0f})"
    if ratio >= 1:
        likelier = told if found < 1 else None
        problems.append(
            f"its estimate of the data has {ratio:.3g} times the squared error of a Gaussian fit, and must "
            "have less; "
            + (f"likelier is: {likelier}" if likelier else "no declaration that was tried is better")
        )
    elif told and found < (1 - MARGIN) * ratio:
        problems.append(f"its ratio to the error of a Gaussian fit is {ratio:.3g}, but likelier is: {told}")
    elif told:
        notes.append(f"nearly as likely is: {told}")
    return Verdict(ratio, tuple(problems), tuple(notes), calls)


def z_score(own: Tensor, other: Tensor) -> float:
    """Return by how many standard errors `other` is lower than `own`, both (n,)."""
    lower = own - other
    return float(lower.mean() / (lower.std() / len(own) ** 0.5).clamp(min=1e-12))


def others(declared: Declaration) -> Iterator[Declaration]:
    """Yield the declarations that a network is compared with."""
    own, near = paths.get(declared.path), []
    if isinstance(own, paths.Edm):
        near = [{"name": "edm", **asdict(replace(own, sigma_data=spread))} for spread in SIGMA_DATA]
    for path in [declared.path, *(path for path in (*near, *PATHS) if paths.get(path) != own)]:
        for prediction in predictions.PARTS:
            for time, scale in CLOCKS:
                if (other := Declaration(path, prediction, time, scale)) != declared:
                    yield other


def changes(data: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield data as the network may have learnt it instead, and what to say of it."""
    yield "data in [0, 1] where it is in [-1, 1]", (data + 1) / 2
    yield "data in [-1, 1] where it is in [0, 1]", 2 * data - 1
    for scale in LATENT_SCALES:
        yield f"data multiplied by {scale}", data * scale
        yield f"data divided by {scale}", data / scale
    if data.shape[1] == 3:
        yield "the channels in reverse order", data.flip(1)


class Answers:
    """A network's answers on noised data, each asked for once."""

    def __init__(self, model: Model, data: Tensor, conditions: Mapping[str, Tensor], keys: Tensor) -> None:
        self.model, self.data, self.conditions, self.keys = model, data, conditions, keys
        self.noise = model.noise.draw("declaration", keys, tuple(data.shape[1:])).to(data)
        self.variance = data.var(dim=0).clamp(min=1e-8)
        self.calls = 0
        self._at: dict[float, tuple[Tensor, Tensor]] = {}
        self._answers: dict[tuple[float, ...], Tensor] = {}

    def ratios(self, declared: Declaration) -> Tensor:
        """Return the error of a declaration over that of a Gaussian fit, by sample, (n,)."""
        return torch.stack([self._ratio(declared, t) for t in TIMES]).mean(dim=0)

    @torch.no_grad()
    def _ratio(self, declared: Declaration, canonical: float) -> Tensor:
        path = paths.get(declared.path)
        c = coefficients(path, canonical)
        time = network_time(path, canonical, declared.time) * declared.time_scale
        noised, fit = self._noised(canonical)
        size = (c.a + c.b).item()
        x = size * noised
        output = self._answer(x, canonical, round(size, 9), time)
        data, _ = predictions.solve(declared.prediction, x, output, c.to(x))
        error = (data - self.data).square().flatten(1).mean(dim=1)
        ratio = error / fit
        return ratio.nan_to_num(nan=1e9, posinf=1e9)

    def _noised(self, canonical: float) -> tuple[Tensor, Tensor]:
        """Return the data at a canonical time, and the error of the Gaussian fit there."""
        if canonical not in self._at:
            noise = (1 - canonical) ** 2
            fit = (noise * self.variance / (canonical**2 * self.variance + noise)).mean()
            self._at[canonical] = canonical * self.data + (1 - canonical) * self.noise, fit
        return self._at[canonical]

    def _answer(self, x: Tensor, canonical: float, size: float, time: float) -> Tensor:
        key = (canonical, size, round(time, 6))
        if key not in self._answers:
            times = torch.full((len(x),), time, dtype=x.dtype, device=x.device)
            given = {**self.conditions, **self.model.guidance_input(x)}
            self._answers[key] = self.model.network(x, times, **given)
            self.calls += 1
        return self._answers[key]


def own_time(path: paths.Path, canonical: float) -> Tensor:
    """Return a path's own time at a canonical one, (1,)."""
    return path.time_of(torch.tensor([canonical], dtype=torch.float64))


@cache  # hundreds of declarations share a path
def coefficients(path: paths.Path, canonical: float) -> paths.Coefficients:
    """Return a path's coefficients at a canonical time, each (1,)."""
    return path.coefficients(own_time(path, canonical))


@cache
def network_time(path: paths.Path, canonical: float, time: str) -> float:
    """Return the number that a network of this path and kind of time is given, unscaled."""
    return float(NETWORK_TIMES[time](path, own_time(path, canonical)))


def plain(value: Any) -> str:
    """Return a value as it is written in params.yaml."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {plain(each)}" for name, each in value.items()) + "}"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return text if "." in text else text.replace("e", ".0e")  # without a point, YAML 1.1 reads a word
