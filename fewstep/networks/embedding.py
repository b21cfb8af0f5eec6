"""What every network here is conditioned on: one time or two, a label if there are classes, and more."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fewstep.conditions import NONE, Shapes
from fewstep.errors import UserError
from fewstep.networks.given import Embedded

FASTEST = 1000.0  # radians per unit of time; the slowest feature turns by one radian
FASTEST_OF_SLOW = 100.0  # the same where methods differentiate by the time
FASTEST_OF_SPANS = 20.0  # the same of the span until a second time, by which they do so too
FASTEST_OF_SCALES = 5.0  # radians as a scale of guidance grows by the factor e; what it does is smooth


class Timed:
    """A part of a network that embeds the time: some waves, then two layers."""

    slowed: bool
    """Whether its waves are slower than those that its design has without slow times."""
    of_logarithms: bool = False
    """Whether its waves are of the logarithm of what it is given."""

    def fast_waves(self, t: Tensor) -> Tensor:
        """Return the waves (n, features) that its design has, at network times t (n,)."""
        raise NotImplementedError

    def waves(self, t: Tensor) -> Tensor:
        """Return the waves (n, features) that it embeds, at network times t (n,)."""
        raise NotImplementedError

    def time_layers(self) -> nn.Sequential:
        """Return the layers that embed them, the last of which is linear."""
        raise NotImplementedError

    @torch.no_grad()
    def slow_down(self, fresh: nn.Sequential, times: Tensor) -> None:
        """Embed the slower waves, by least squares in the last layer, as its layers now embed the fast ones.

        Args:
            fresh: Layers like its own, of which the last is fitted and the others are taken as they are.
            times: Network times, (n,), at which it is to.
        """
        layers = self.time_layers()
        last = layers[-1]
        assert isinstance(last, nn.Linear)
        wanted = layers(self.fast_waves(times)).cpu().double()
        hidden = fresh[:-1](self.waves(times)).cpu().double()
        terms = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)
        square = terms.T @ terms + 1e-6 * len(times) * torch.eye(terms.shape[1])
        fitted = torch.linalg.solve(square, terms.T @ wanted)
        layers.load_state_dict(fresh.state_dict())
        last.weight.copy_(fitted[:-1].T)
        last.bias.copy_(fitted[-1])


class Condition(Timed, nn.Module):
    """An embedding (batch, width) of the time, of the label where there are classes, and of other conditions.

    Sines and cosines of geometrically spaced frequencies, then two layers; Vaswani et al. 2017,
    Ho et al. 2020 (arXiv 2006.11239), appendix B. Label number `classes` is the null condition.
    """

    frequencies: Tensor

    def __init__(
        self,
        features: int,
        width: int,
        classes: int,
        *,
        conditions: Shapes = NONE,
        second_time: bool = False,
        slow_times: bool = False,
        guidance_input: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        frequencies = _frequencies(features // 2, FASTEST)
        if slow_times:
            frequencies = _frequencies(features // 2, FASTEST_OF_SLOW) / time_scale
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.slowed = slow_times
        self.time = nn.Sequential(*_layers(features // 2, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.classes = classes
        self.until = Span(features // 2, width, time_scale) if second_time else None
        self.guidance = Scale(features // 2, width) if guidance_input else None
        self.others = Embedded(conditions, width)

    def forward(
        self,
        t: Tensor,
        label: Tensor | None,
        until: Tensor | None = None,
        others: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """Return the embedding, (batch, width), of t, label and until, (batch,), and of others (batch, ...).

        No label is the null label; no until is t, if the network has a second time. See `with_more`.

        Raises:
            UserError: if there is a label but the network has no classes, or a second time but it has one.
        """
        embedding = self.time(self.waves(t))
        embedding = with_more(
            embedding, t, until, others, span=self.until, scale=self.guidance, embedded=self.others
        )
        if self.label is None:
            if label is not None:
                raise UserError("a label was given to a network without classes")
            return embedding
        if label is None:
            label = torch.full(t.shape, self.classes, device=t.device)
        return embedding + self.label(label)

    def fast_waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return _waves(t, _frequencies(len(self.frequencies), FASTEST).to(self.frequencies))

    def waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return _waves(t, self.frequencies)

    def time_layers(self) -> nn.Sequential:
        """See Timed."""
        return self.time


class Added(nn.ModuleList):
    """An embedding (batch, width) of a further number, by waves of these frequencies, (waves,).

    Its last layer starts at zero, so that a network that is given the number starts as the one without whose
    weights it takes.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Tensor, width: int) -> None:
        super().__init__(_layers(len(frequencies), width))
        self.register_buffer("frequencies", frequencies, persistent=False)
        zero(self[-1])

    def embed(self, waves: Tensor) -> Tensor:
        """Return the embedding of waves of the number, (batch, 2 waves)."""
        for layer in self:
            waves = layer(waves)
        return waves


class Span(Added):
    """An embedding (batch, width) of the span from a time until a second one."""

    def __init__(self, waves: int, width: int, time_scale: float) -> None:
        super().__init__(span_frequencies(waves, time_scale), width)

    def forward(self, t: Tensor, until: Tensor | None) -> Tensor:
        """Return the embedding of the span from t until then, both (batch,); no until is t."""
        return self.embed(span_waves(t, t if until is None else until, self.frequencies))


class Scale(Added):
    """An embedding (batch, width) of the scale of guidance, by waves of its logarithm.

    A scale acts by its ratio to others; so 1 and 2 are as far from each other as 4 and 8.
    """

    def __init__(self, waves: int, width: int) -> None:
        super().__init__(_frequencies(waves, FASTEST_OF_SCALES), width)

    def forward(self, scale: Tensor) -> Tensor:
        """Return the embedding of scales above 0, (batch,)."""
        exactly = scale.to(torch.promote_types(scale.dtype, torch.float32))
        return self.embed(_waves(exactly.log(), self.frequencies))


def slowing(time_scale: float) -> float:
    """Return what to multiply network times by, so that waves of up to one radian per unit are slow."""
    return min(1.0, FASTEST_OF_SLOW / time_scale)


def span_frequencies(count: int, time_scale: float) -> Tensor:
    """Return in radians per unit of network time how fast the waves of a span turn, (count,)."""
    return _frequencies(count, FASTEST_OF_SPANS) / time_scale


def span_waves(t: Tensor, until: Tensor, frequencies: Tensor) -> Tensor:
    """Return sines and cosines (batch, 2 count) of the span between network times, (batch,)."""
    return _waves(until - t, frequencies)


def with_more(
    embedding: Tensor,
    t: Tensor,
    until: Tensor | None,
    others: Mapping[str, Tensor],
    *,
    span: Span | None,
    scale: Scale | None,
    embedded: Embedded,
) -> Tensor:
    """Return an embedding (batch, width) with those of a second time, of guidance and of conditions added.

    Args:
        embedding: Of the time t (batch,), and of what else a network is given.
        t: The time.
        until: The second time, (batch,), if there is one.
        others: The conditions, each (batch, ...), and the scale of `guidance`, (batch,), for a network that
            takes it.
        span: What embeds the second time; None of a network without one.
        scale: What embeds the scale of guidance; None of a network that takes none.
        embedded: What embeds the conditions.

    Raises:
        UserError: if there is a second time, but the network has none.
    """
    if span is not None:
        embedding = embedding + span(t, until)
    elif until is not None:
        raise UserError("`until` was given to a network without a second time")
    if scale is not None:
        embedding = embedding + scale(others["guidance"])
    return embedding + embedded(others) if embedded.layers else embedding


def _waves(t: Tensor, frequencies: Tensor) -> Tensor:
    angle = t[:, None] * frequencies  # in float32, as times are, whatever the weights are
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(frequencies.dtype)


def _frequencies(count: int, fastest: float) -> Tensor:
    return torch.exp(torch.linspace(0, math.log(fastest), count))


def _layers(waves: int, width: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width)


def zero(layer: nn.Module) -> None:
    """Set a layer's weights to zero, so that what it adds starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
