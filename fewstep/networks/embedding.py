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
FITTED = 4096  # times at which slow features are fitted to others


class Condition(nn.Module):
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
    ) -> None:
        super().__init__()
        fastest = FASTEST_OF_SLOW if slow_times else FASTEST
        self.register_buffer("frequencies", _frequencies(features // 2, fastest), persistent=False)
        self.time = nn.Sequential(*_layers(features // 2, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.classes = classes
        self.until = Span(features // 2, width) if second_time else None
        self.others = Embedded(conditions, width)

    def forward(
        self,
        t: Tensor,
        label: Tensor | None,
        until: Tensor | None = None,
        others: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """Return the embedding, (batch, width), of t, label and until, (batch,), and of others (batch, ...).

        No label is the null label; no until is t, if the network has a second time.

        Raises:
            UserError: if there is a label but the network has no classes, or a second time but it has one.
        """
        embedding = self.time(_waves(t, self.frequencies))
        embedding = with_more(embedding, t, until, others, span=self.until, embedded=self.others)
        if self.label is None:
            if label is not None:
                raise UserError("a label was given to a network without classes")
            return embedding
        if label is None:
            label = torch.full(t.shape, self.classes, device=t.device)
        return embedding + self.label(label)

    @torch.no_grad()
    def fit_times(self, other: "Condition") -> None:
        """Fit the embedding of the time to another network's, by least squares in the last layer alone."""
        first, middle, last = self.time
        assert isinstance(last, nn.Linear)
        t = (torch.arange(FITTED, device=last.weight.device) + 0.5) / FITTED
        wanted = other.time(_waves(t, other.frequencies)).cpu().double()
        hidden = middle(first(_waves(t, self.frequencies))).cpu().double()
        terms = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)
        square = terms.T @ terms + 1e-6 * FITTED * torch.eye(terms.shape[1])
        fitted = torch.linalg.solve(square, terms.T @ wanted)
        last.weight.copy_(fitted[:-1].T)
        last.bias.copy_(fitted[-1])


class Span(nn.ModuleList):
    """An embedding (batch, width) of the span from a time until a second one.

    Its last layer starts at zero, so that a network with a second time starts as the one with one time whose
    weights it takes.
    """

    frequencies: Tensor

    def __init__(self, waves: int, width: int) -> None:
        super().__init__(_layers(waves, width))
        self.register_buffer("frequencies", _frequencies(waves, FASTEST_OF_SPANS), persistent=False)
        zero(self[-1])

    def forward(self, t: Tensor, until: Tensor | None) -> Tensor:
        """Return the embedding of the span from t until then, both (batch,); no until is t."""
        embedding = _waves(torch.zeros_like(t) if until is None else until - t, self.frequencies)
        for layer in self:
            embedding = layer(embedding)
        return embedding


def with_more(
    embedding: Tensor,
    t: Tensor,
    until: Tensor | None,
    others: Mapping[str, Tensor],
    *,
    span: Span | None,
    embedded: Embedded,
) -> Tensor:
    """Return an embedding (batch, width) with those of a second time and of conditions added.

    Args:
        embedding: Of the time t (batch,), and of what else a network is given.
        t: The time.
        until: The second time, (batch,), if there is one.
        others: The conditions, each (batch, ...).
        span: What embeds the second time; None of a network without one.
        embedded: What embeds the conditions.

    Raises:
        UserError: if there is a second time, but the network has none.
    """
    if span is not None:
        embedding = embedding + span(t, until)
    elif until is not None:
        raise UserError("`until` was given to a network without a second time")
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
