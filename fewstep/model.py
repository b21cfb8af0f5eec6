"""Model: a network, and the facts one needs to use it: what it predicts, on which path, how."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep import guidance_ranges, noises, paths, registry
from fewstep.conditions import LABEL, LAST_VELOCITY, Conditions, Shapes, Table, check_shapes, must_be_given
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.lora_settings import LoraSettings
from fewstep.network_times import NETWORK_TIMES, OF_A_PATH, rate
from fewstep.predictions import PARTS
from fewstep.registry import unknown

with lazy_imports():
    from fewstep.networks import lora as adapters

TIMING = ("second_time", "slow_times", "split_after")
"""What an architecture's `build` may take; see fewstep.timing."""

Until = Literal["now", "any", "data"]
"""What a velocity is the average to: "now" is that of the flow at one time; "any" time that it is given as
`until`, which is a flow map; "data" the end, which is a consistency model."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model but its weights; it is the model directory's config.json.

    Raises:
        UserError: for a path, prediction, noise or time that does not exist, noise that does not suit the
            path or prediction, conditions or shares that can't be, guidance_channels out of range or beside a
            guidance_input, a guidance_range that can't be or is not of a guidance_input alone, jitter out of
            range or without trained_times grid, or a student of timesteps without its grid.
    """

    architecture: dict[str, Any]
    """{"name": a file of fewstep.models, and that file's options}; "second_time": true if the network can be
    given the time at which a step ends, beside the one at which it starts; "split_after": how many of its
    first blocks are then given the start alone, and all after them the end alone; "slow_times": true if it
    may be differentiated by them."""
    shape: tuple[int, ...]
    """Shape of one sample: (channels, height, width) or (features,)."""
    classes: int = 0
    """Number of class labels the network is conditioned on; 0 for an unconditional model."""
    class_shares: tuple[float, ...] = ()
    """How often each class came in the data it learnt from, (classes,): by these shares the labels of its
    samples are drawn. If nobody says, all are as frequent."""
    class_names: tuple[str, ...] = ()
    """What the data calls each class, (classes,), or ()."""
    conditions: Shapes = field(default_factory=dict)
    """Name and shape of all else that the network is conditioned on, by the order of names; see
    fewstep.conditions."""
    units: dict[str, tuple[float, ...]] | None = None
    """{"scale": (features,), "offset": (features,)} if it learnt from standardised points: a sample in the
    data's own units is scale * x + offset."""
    prediction: str = "velocity"
    """What the network's output means; a row of fewstep.predictions.PARTS."""
    path: str | dict[str, Any] = "linear"
    """The path it was trained on, and in whose own time it is called: a name, or {"name": ..., options}."""
    noise: str | dict[str, Any] = "gaussian"
    """The law of the noise: a name of fewstep.noises.LAWS, or {"name": ..., options}."""
    time: str = "t"
    """Which time the network is given; a row of fewstep.network_times.NETWORK_TIMES."""
    time_scale: float = 1.0
    """The factor by which that time is multiplied."""
    trained_times: Literal["all", "grid", "until_1"] = "all"
    """"grid" for a student that only knows the timesteps of its own grid; "until_1" for one whose velocity is
    the average from any time until 1, so that it jumps to data in one step."""
    equal_steps: int | None = None
    """The number of equal steps of a flow map that learned these and others of a number that divides it; None
    of any other model."""
    jitter: float = 0.0
    """How far the inner timesteps of its grid were moved at random in training, as a part of the way to the
    next timestep on either side; 0 for a student that knows its timesteps alone."""
    in_range: bool = False
    """Whether its last step is clamped to [-1, 1], the range of images, in training as in sampling; only a
    student of a grid, or a flow map, can be."""
    map_preserving: bool = True
    """Whether it was trained to make of each noise what its teacher makes of it."""
    guidance_channels: int | None = None
    """On how many of the first channels guidance acts; the others stay conditional. None: on all."""
    guidable: bool = True
    """Whether its null class was trained, by hiding labels, as classifier-free guidance needs."""
    guidance_input: bool = False
    """Whether its network is given the scale of guidance as an input, and so shows it in one call; it was
    distilled from a guided one (Meng et al. 2023, arXiv 2210.03142)."""
    guidance_range: guidance_ranges.Range | None = None
    """The scales of guidance that its network was trained with here, of one with a guidance_input; None of
    any other, also one that was trained elsewhere."""
    baked_guidance: float = 1.0
    """The scale of classifier-free guidance that its samples show though they are made without; 1 is none. A
    network with a guidance_input is given it. Guidance that is asked of it multiplies this; see
    `guidance_shown`."""
    learned_from: Literal["pairs", "coupled"] | None = None
    """"pairs" if it learnt from pairs that passed their checks, of which each noise has one data; "coupled"
    if its noise went with the data in another way, as in pairs that failed them, so that its velocity tells
    no score; None of any other model, and of coupled ones of older directories."""
    deterministic: bool = True
    """Whether the same noise always gives the same sample."""
    grid: Grid | None = None
    """The grid a few-step student samples with."""
    lora: LoraSettings | None = None
    """The adapter in its network, whose other weights are those of another model; see fewstep.lora."""
    lora_base: str | None = None
    """The digest of that model's directory, if it had one."""
    refined_model: str | None = None
    """The digest of the directory of the model that a refiner was trained beside, if it had one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        shares = tuple(self.class_shares) or (1 / self.classes,) * self.classes if self.classes else ()
        object.__setattr__(self, "class_shares", shares)
        object.__setattr__(self, "class_names", tuple(self.class_names) if self.classes else ())
        if self.units is not None:
            object.__setattr__(self, "units", {name: tuple(numbers) for name, numbers in self.units.items()})
        object.__setattr__(
            self, "conditions", {name: tuple(s) for name, s in sorted(self.conditions.items())}
        )
        if self.conditions != {LAST_VELOCITY: self.shape}:  # what a refiner has
            check_shapes(self.conditions)
        if isinstance(self.grid, dict):
            object.__setattr__(self, "grid", Grid(**self.grid))
        if isinstance(self.lora, dict):
            object.__setattr__(self, "lora", LoraSettings(**self.lora))
        _refuse_other_shares(shares, self.classes)
        law = noises.get(self.noise)
        object.__setattr__(self, "noise", law.named())
        noises.must_suit(law, path=paths.get(self.path), prediction=self.prediction)
        if self.prediction not in PARTS:
            raise UserError(unknown("prediction", self.prediction, list(PARTS)))
        if self.time not in NETWORK_TIMES:
            raise UserError(unknown("time", self.time, list(NETWORK_TIMES)))
        if self.guidance_channels is not None and not 1 <= self.guidance_channels <= self.shape[0]:
            raise UserError(
                f"guidance_channels must be from 1 to the {self.shape[0]} channels of a sample, "
                f"got {self.guidance_channels}"
            )
        if self.guidance_input and self.guidance_channels is not None:
            raise UserError(
                "guidance is an input of this network, and acts on all channels: leave out guidance_channels"
            )
        if self.guidance_range is not None:
            object.__setattr__(self, "guidance_range", guidance_ranges.checked(self.guidance_range))
            if not self.guidance_input or self.baked_guidance != 1.0:
                raise UserError(
                    "guidance_range is of a network with a guidance_input that shows no guidance beside it; "
                    f"guidance_input is {self.guidance_input}, baked_guidance {self.baked_guidance:g}"
                )
        if self.trained_times == "grid" and self.grid is None:
            raise UserError("a model trained only at the timesteps of a grid must carry that grid")
        if self.trained_times == "until_1" and (self.grid is None or self.grid.steps > 1):
            raise UserError("a model that only jumps to data must carry a grid of one step")
        if not 0 <= self.jitter < 0.5 or (self.jitter and self.trained_times != "grid"):
            raise UserError(
                f"jitter must be from 0 up to but not 0.5, and is of students of a grid; got {self.jitter} "
                f"for a model trained at times: {self.trained_times}"
            )

    @property
    def velocity_until(self) -> Until:
        """What its velocity is the average to."""
        if self.architecture.get("second_time"):
            return "any"
        return "data" if self.trained_times == "until_1" else "now"

    @property
    def refines(self) -> bool:
        """Whether it says how the velocity of another model changes, and is no flow; see fewstep.refining."""
        return LAST_VELOCITY in self.conditions

    @property
    def condition_names(self) -> tuple[str, ...]:
        """The names of all that it is conditioned on, the label first."""
        return (*((LABEL,) if self.classes else ()), *self.conditions)

    def guidance_shown(self, asked: float) -> float:
        """Return the guidance that its samples show if they are made with the scale `asked`.

        That is the product of `asked` and `baked_guidance`, for a model of guided samples is guided from a
        null condition that learnt from them, too. With Gaussian classes of one covariance around the null
        mean m, the first scale moves a class from m + d to m + w d, the second, from m again, to m + w' w d.

        Raises:
            UserError: if it has no conditions or saw no hidden ones in training; if it was taught one scale
                of those that its network is given, or others; if the scale is not finite.
        """
        if not math.isfinite(asked):
            raise UserError(f"guidance must be a finite number, got {asked}; 1 is none")
        if self.guidance_range is not None:
            guidance_ranges.must_hold(self.guidance_range, asked)
        if asked == 1.0:
            return self.baked_guidance
        if not self.condition_names and not self.guidance_input:
            raise UserError(
                f"guidance {asked} needs a class-conditional model; this one has no classes and no other "
                "conditions"
            )
        if self.baked_guidance != 1.0 and (self.guidance_input or not self.guidable):
            raise UserError(f"this model was taught guidance {self.baked_guidance}; ask for 1, not {asked}")
        if not self.guidable and not self.guidance_input:
            raise UserError(
                f"guidance {asked} needs a model that was trained with label_dropout; this one never saw a "
                "hidden label"
            )
        return asked * self.baked_guidance

    def calls_per_velocity(self, guidance: float | Tensor) -> int:
        """Return how many network calls a velocity with that guidance, perhaps of each sample, costs."""
        none = not isinstance(guidance, Tensor) and guidance == 1.0
        return 1 if none or self.guidance_input else 2


def _refuse_other_shares(shares: tuple[float, ...], classes: int) -> None:
    possible = all(0 <= share <= 1 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
    if classes and (len(shares) != classes or not possible):
        raise UserError(
            f"class_shares must be {classes} numbers from 0 that add up to 1, one for each class, got "
            f"{len(shares)} that add up to {sum(shares):g}"
        )


class Model(nn.Module):
    """A network with its ModelConfig.

    The extra last class, number `config.classes`, is the null condition of classifier-free guidance.

    Attributes:
        conditions: the law of what its samples are conditioned on.
        noise: the law of the noise that its samples start from.

    Raises:
        UserError: if the table holds other conditions than the config declares.
    """

    def __init__(self, config: ModelConfig, network: nn.Module, table: Table | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.noise = noises.get(config.noise)
        self.conditions = Conditions(config.class_shares, config.conditions, table)
        if table is not None and table.shapes != dict(config.conditions):
            raise UserError(
                f"the model takes the conditions {dict(config.conditions)}, but its table has {table.shapes}"
            )
        for name in config.conditions:  # they move with the model, and are no weights
            self._keep("null", name, self.conditions.null)
            self._keep("negative", name, self.conditions.negative)

    def null(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the network is given for none of these conditions, each (batch, ...)."""
        return self._instead(conditions, "null")

    def negative(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what guidance leads away from instead of these conditions, each (batch, ...)."""
        return self._instead(conditions, "negative")

    def _keep(self, kind: str, name: str, value: Callable[[str], Any]) -> None:
        self.register_buffer(f"{kind}_{name}", torch.from_numpy(value(name)), persistent=False)

    def _instead(self, conditions: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
        found = {}
        for name, values in conditions.items():
            if name == LABEL:
                found[name] = torch.full_like(values, self.config.classes)
            else:
                found[name] = self.get_buffer(f"{kind}_{name}").to(values.dtype).expand_as(values)
        return found

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        until: Tensor | None = None,
        guidance: float | Tensor = 1.0,
        **conditions: Tensor,
    ) -> Tensor:
        """Return the network's raw prediction, (batch, *shape), at the path's own times t, (batch,).

        A network with a second time predicts for the step from t until `until`, (batch,); without it, at t.
        One that is given noise levels, of which that of the data may be infinite, is given the first level
        plus the span in the path's time, times their rate (fewstep.network_times); but one that knows two
        times by itself is given both levels.
        One with a guidance_input is given `guidance`, a number or (batch,).

        Raises:
            UserError: if a condition is missing, or of another shape, guidance is asked of a network that
                takes none, or `until` of one without a second time.
        """
        must_be_given(self.config.conditions, conditions, by="the caller")
        if until is not None:
            conditions["until"] = self._second_time(t, until, x)
        return self.network(x, self._network_time(t, x), **conditions, **self.guidance_input(x, guidance))

    def guidance_input(self, x: Tensor, guidance: float | Tensor = 1.0) -> dict[str, Tensor]:
        """Return what its network is given of guidance beside x (batch, *shape): (batch,), or nothing.

        Raises:
            UserError: if guidance is asked of a network that takes none; see also ModelConfig.guidance_shown,
                which the scales of single samples are not compared with.
        """
        if not self.config.guidance_input:
            if isinstance(guidance, Tensor) or guidance != 1.0:
                raise UserError(
                    f"guidance {guidance} was given to a network that takes none as an input; ask as_flow"
                )
            return {}
        if isinstance(guidance, Tensor):
            return {"guidance": guidance.to(x)}
        return {"guidance": x.new_full((x.shape[0],), self.config.guidance_shown(guidance))}

    def _second_time(self, t: Tensor, until: Tensor, x: Tensor) -> Tensor:
        if self.config.time in OF_A_PATH or getattr(self.network, "takes_any", False):
            return self._network_time(until, x)
        first = self._network_time(t, x)
        return first + rate(self.config.time, self.config.time_scale) * (until - t).to(first.dtype)

    def _network_time(self, t: Tensor, x: Tensor) -> Tensor:
        """Return what the network is given for a time of its path: in float32 at least."""
        time = NETWORK_TIMES[self.config.time](paths.get(self.config.path), t) * self.config.time_scale
        return time.to(torch.promote_types(x.dtype, torch.float32))


def difference(one: ModelConfig, other: ModelConfig, names: Collection[str]) -> str | None:
    """Say in which of these fields two configs differ, None if in none."""
    for name in names:
        values = (getattr(one, name), getattr(other, name))
        if values[0] != values[1]:
            if name == "noise":
                values = (noises.get(values[0]).told(), noises.get(values[1]).told())
            return f"{name} differ{'' if name.endswith('s') else 's'}: {values[0]} and {values[1]}"
    return None


def build(config: ModelConfig, *, seed: int, table: Table | None = None) -> Model:
    """Return a model with freshly drawn weights, which depend on `seed` alone.

    Args:
        config: What it is.
        seed: Of the weights.
        table: Its conditions, if it is to be sampled with others than those it is given.

    Raises:
        UserError: if the architecture or one of its options does not exist or does not fit the shape, or the
            adapter does not fit the network.
    """
    options = dict(config.architecture)
    taken = {name: options.pop(name) for name in TIMING if name in options}
    if taken and (scale := rate(config.time, config.time_scale)) != 1:
        taken["time_scale"] = scale
    if config.conditions:
        taken["conditions"] = config.conditions
    if config.guidance_input:
        taken["guidance_input"] = True
    architecture = registry.find("fewstep.models", options.pop("name", None))
    known = list(getattr(architecture, "__dataclass_fields__", options))
    for option in options.keys() - set(known):
        raise UserError(f"model {config.architecture['name']}: {unknown('option', option, known)}")
    try:
        design = architecture(**options)
    except TypeError as error:
        raise UserError(f"model {config.architecture['name']}: {error}") from error
    takes = inspect.signature(design.build).parameters
    refused = [name.replace("_", " ") for name in taken if name not in takes]
    if refused and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise UserError(
            f"model {config.architecture['name']} can't be given {refused[0]}: its build does not take it"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = design.build(config.shape, config.classes, **taken)
        if config.lora is not None:
            adapters.put_in(network, config.lora)
    return Model(config, network, table)
