"""Networks of diffusers that are given two times: what they make of their time gets the span until a second.

Both times go in as one tensor, (2, batch), where the time does. So nothing is kept between the parts of a
network, and blocks that are computed again for a backward pass, or compiled, see the times of their own call.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from diffusers.models import embeddings
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.networks.embedding import Span, Timed, slowing, span_waves

EMBEDDERS = ("time_embedding", "timestep_embedder")
"""What the layers that embed a time are called, beside `time_proj`, which makes its waves."""


class Waves(nn.Module):
    """Makes of two times, (2, batch), the waves of the first and those of the span, (batch, features).

    Of anything else, such as a scale of guidance, it makes what the network did; without a span, the waves of
    the first time, or of the second where `which` is 1.
    """

    frequencies: Tensor | None

    def __init__(self, plain: embeddings.Timesteps, slowed_by: float, span: Span | None) -> None:
        super().__init__()
        self.plain, self.slowed_by, self.which = plain, slowed_by, 0
        self.register_buffer("frequencies", None if span is None else span.frequencies, persistent=False)

    def forward(self, times: Tensor) -> Tensor:
        """Return the waves, in float32 as times are."""
        if times.dim() == 1:
            return self.plain(times)
        t, until = times
        own = self.plain(self.slowed_by * times[self.which])
        if self.frequencies is None:
            return own
        return torch.cat([own, span_waves(t, until, self.frequencies)], dim=1)


class Embedder(embeddings.TimestepEmbedding, Timed):
    """Embeds the waves of a time as the network did, and adds the embedding of a span, at first zero."""

    until: Span | None
    of: Waves

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the embedding, (batch, width), of what Waves made."""
        own = self.linear_1.in_features
        embedding: Tensor = super().forward(sample[:, :own], condition)
        return embedding if self.until is None else embedding + self.until.embed(sample[:, own:])

    def fast_waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return self.of.plain(t)

    def waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return self.of.plain(self.of.slowed_by * t)

    def time_layers(self) -> nn.Sequential:
        """See Timed."""
        act = nn.Identity() if self.act is None else self.act
        return nn.Sequential(self.linear_1, act, self.linear_2)


def give(network: Any, *, second_time: bool, slow_times: bool, time_scale: float) -> None:
    """Have a network take two times where it took one, with weights of its own names and those of the span.

    Args:
        network: One of diffusers.
        second_time: Whether it is to depend on the second.
        slow_times: Whether its waves of the first are to be slow.
        time_scale: What both times are multiplied by.

    Raises:
        UserError: if it has no such embedding of its time.
    """
    found = list(_places(network))
    if not found:
        raise UserError(
            f"{type(network).__name__} with this config embeds its time in a way to which no second time "
            "can be added; take one with the time_embedding_type positional"
        )
    slowed_by = slowing(time_scale) if slow_times else 1.0
    for parent, embedder in found:
        embedder.__class__ = Embedder
        waves, width = embedder.linear_1.in_features // 2, embedder.linear_2.out_features
        embedder.until = Span(waves, width, time_scale) if second_time else None
        embedder.slowed = slowed_by < 1
        parent.time_proj = embedder.of = Waves(parent.time_proj, slowed_by, embedder.until)
    if hasattr(network, "get_time_embed"):  # of UNet2DConditionModel, which lets only one time in
        network.get_time_embed = partial(_waves_of, network.time_proj)


def split(network: Any, after: int) -> None:
    """Have the first blocks of a network be given the first of two times alone, all after them the second.

    What embeds the times is in the blocks, and takes the second; the first blocks are given both in reverse.
    The last layer takes the embedding that is in the first block, by itself.

    Args:
        network: One of diffusers whose blocks each embed their time, that `give` was called with.
        after: How many first blocks.
    """
    for part, _ in _places(network):
        part.time_proj.which = 1
    for block in network.transformer_blocks[:after]:
        block.register_forward_pre_hook(_in_reverse, with_kwargs=True)


def _in_reverse(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "timestep": kwargs["timestep"].flip(0)}


def _places(network: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of a network that embed its time, and the layers in each that do."""
    for part in network.modules():
        if isinstance(getattr(part, "time_proj", None), (embeddings.Timesteps, Waves)):
            for name in EMBEDDERS:
                if isinstance(embedder := getattr(part, name, None), embeddings.TimestepEmbedding):
                    yield part, embedder


def _waves_of(waves: Waves, sample: Tensor, timestep: Tensor) -> Tensor:
    return waves(timestep).to(sample.dtype)
