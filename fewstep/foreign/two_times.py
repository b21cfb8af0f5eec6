"""Networks of diffusers that are given two times: what they make of their time gets the span until a second.

Both times go in as one tensor, (2, batch), where the time does. So nothing is kept between the parts of a
network, and blocks that are computed again for a backward pass, or compiled, see the times of their own call.

Waves of a time have fixed frequencies; those of UNet2DModel with `fourier` have random ones and are of the
logarithm of a noise level, by which its output is divided.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models import embeddings
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.network_times import RATE
from fewstep.networks.embedding import Span, Timed, slowing, span_waves

EMBEDDERS = ("time_embedding", "timestep_embedder")
"""What the layers that embed a time are called, beside `time_proj`, which makes its waves."""
FASTEST_OF_FOURIER = 3 * 16 * 2 * math.pi
"""Radians per unit of a logarithm: frequencies are normal, with a deviation of 16, and few are above 48."""


class Waves(nn.Module):
    """Makes of two times, (2, batch), the waves of the first and those of the span, (batch, features).

    Of anything else, such as a scale of guidance, it makes what the network did; without a span, the waves of
    the first time, or of the second where `which` is 1, or of both, (2, batch, features), where it is None.
    """

    frequencies: Tensor | None
    slowed_by: float
    which: int | None

    def set_up(self, slowed_by: float, span: Span | None) -> None:
        """Say how slow its waves are, and of which frequencies those of the span."""
        self.slowed_by, self.which = slowed_by, 0
        self.register_buffer("frequencies", None if span is None else span.frequencies, persistent=False)

    def fast(self, t: Tensor) -> Tensor:
        """Return the waves (batch, features) that the network made of one time, (batch,)."""
        raise NotImplementedError

    def slow(self, t: Tensor) -> Tensor:
        """Return those waves, slowed."""
        raise NotImplementedError

    def forward(self, times: Tensor) -> Tensor:
        """Return the waves, in float32 as times are."""
        if times.dim() == 1:
            return self.fast(times)
        if self.which is None:
            return self.slow(times.flatten()).unflatten(0, times.shape)
        t, until = times
        own = self.slow(times[self.which])
        if self.frequencies is None:
            return own
        return torch.cat([own, span_waves(t, until, self.frequencies)], dim=1)


class WavesOfTimes(Waves):
    """Waves of fixed frequencies."""

    def __init__(self, plain: embeddings.Timesteps) -> None:
        super().__init__()
        self.plain = plain

    def fast(self, t: Tensor) -> Tensor:
        """See Waves."""
        return self.plain(t)

    def slow(self, t: Tensor) -> Tensor:
        """See Waves."""
        return self.plain(self.slowed_by * t)


class WavesOfLogarithms(Waves, embeddings.GaussianFourierProjection):
    """Waves of the logarithm of a noise level, of random frequencies, which stay weights of the network."""

    def fast(self, t: Tensor) -> Tensor:
        """See Waves."""
        return embeddings.GaussianFourierProjection.forward(self, t)

    def slow(self, t: Tensor) -> Tensor:
        """See Waves; the logarithm of a power is a multiple of the logarithm."""
        return self.fast(t**self.slowed_by)


class Embedder(embeddings.TimestepEmbedding, Timed):
    """Embeds the waves of a time as the network did, and adds the embedding of a span, at first zero."""

    until: Span | None
    of: tuple[Waves]
    """In a tuple, so that its weights, which are those of another part, are not named twice."""

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the embedding, (batch, width), or (2, batch, width) of two times, of what Waves made."""
        if self.until is None:
            return super().forward(sample, condition)
        own = self.linear_1.in_features
        embedding: Tensor = super().forward(sample[:, :own], condition)
        return embedding + self.until.embed(sample[:, own:])

    def fast_waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return self.of[0].fast(t)

    def waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return self.of[0].slow(t)

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
        time_scale: How far the numbers that it is given go in a unit of time; see fewstep.network_times.rate.

    Raises:
        UserError: if it has no such embedding of its time.
    """
    found = list(_places(network))
    if not found:
        raise UserError(
            f"{type(network).__name__} with this config embeds its time in a way to which no second time "
            "can be added; take one with the time_embedding_type positional"
        )
    for parent, embedder in found:
        embedder.__class__ = Embedder
        count, width = embedder.linear_1.in_features // 2, embedder.linear_2.out_features
        embedder.until = Span(count, width, time_scale) if second_time else None
        embedder.of_logarithms = isinstance(parent.time_proj, embeddings.GaussianFourierProjection)
        if embedder.of_logarithms:
            waves, fastest = parent.time_proj, FASTEST_OF_FOURIER * RATE
            waves.__class__ = WavesOfLogarithms
            network.register_to_config(time_embedding_type="positional")  # it would divide by both times
            network.register_forward_hook(_over_level)
        else:
            waves, fastest = WavesOfTimes(parent.time_proj), time_scale
        slowed_by = slowing(fastest) if slow_times else 1.0
        waves.set_up(slowed_by, embedder.until)
        parent.time_proj, embedder.of, embedder.slowed = waves, (waves,), slowed_by < 1
    if hasattr(network, "get_time_embed"):  # of UNet2DConditionModel, which lets only one time in
        network.get_time_embed = partial(_waves_of, network.time_proj)


def split(network: Any, after: int) -> None:
    """Have the first blocks of a network be given the first of two times alone, all after them the second.

    Where each block embeds the times by itself, it takes the second, and the first blocks are given both in
    reverse; the last layer takes the embedding that is in the first block. Where all share one, that is made
    of both times, (2, batch, ...), and each block is given its own of the two.

    Args:
        network: A transformer of diffusers that `give` was called with.
        after: How many first blocks.
    """
    blocks = [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]
    parts = [part for part, _ in _places(network)]
    shared = not any(parts[0] is part for part in blocks[0].modules())
    for part in parts:
        part.time_proj.which = None if shared else 1
    if not shared:
        for block in blocks[:after]:
            block.register_forward_pre_hook(_in_reverse, with_kwargs=True)
        return
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(_one_of_two, int(number >= after)), with_kwargs=True)
    if hasattr(network, "adaln_single"):  # of PixArt, whose last layer is no module
        network.adaln_single.register_forward_hook(_last_of_two)
    else:
        network.norm_out.register_forward_pre_hook(_second_of_two)


def _in_reverse(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "timestep": kwargs["timestep"].flip(0)}


def _one_of_two(
    which: int, block: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    name = "temb" if "temb" in kwargs else "timestep"
    return args, {**kwargs, name: kwargs[name][which]}


def _second_of_two(layer: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, embedding = args
    return x, embedding[1]


def _last_of_two(
    layer: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    of_blocks, of_last_layer = output
    return of_blocks, of_last_layer[1]


def _over_level(network: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor]) -> tuple[Tensor]:
    level = args[1][0]
    return (output[0] / level.reshape(-1, *[1] * (output[0].dim() - 1)),)


def _places(network: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of a network that embed its time, and the layers in each that do."""
    known: tuple[type[nn.Module], ...] = (embeddings.Timesteps, Waves)
    if isinstance(network, UNet2DModel):
        known += (embeddings.GaussianFourierProjection,)
    for part in network.modules():
        if isinstance(getattr(part, "time_proj", None), known):
            for name in EMBEDDERS:
                if isinstance(embedder := getattr(part, name, None), embeddings.TimestepEmbedding):
                    yield part, embedder


def _waves_of(waves: Waves, sample: Tensor, timestep: Tensor) -> Tensor:
    return waves(timestep).to(sample.dtype)
