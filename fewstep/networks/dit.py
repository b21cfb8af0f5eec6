"""Torch module of the diffusion transformer; settings and description are in fewstep.models.dit."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.conditions import Shapes, images
from fewstep.errors import UserError
from fewstep.networks.embedding import Scale, Span, Timed, slowing, with_more, zero
from fewstep.networks.given import Embedded, beside

WAVES = 256  # features of a time
SLOWEST = 1e-4  # radians per unit of time; the fastest feature turns by one radian
EPS = 1e-6
GROWTH = 4  # how much wider the inner layer of a block is


class DitNetwork(Timed, nn.Module):
    """A transformer over patches, whose blocks are modulated by time and label; Peebles and Xie 2023.

    With `split_after` a second time modulates the blocks after so many, and the last layer, in place of the
    first (Lee et al. 2025, arXiv 2510.24474).

    Its weights have the names that they have in the code of DiT and SiT, so that a state dict of these is
    one of this network, and the other way round. What a second time, guidance and conditions beside the
    label add to the embedding of the time has layers of its own.
    """

    pos_embed: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        variance: bool,
        conditions: Shapes,
        second_time: bool = False,
        slow_times: bool = False,
        guidance_input: bool = False,
        split_after: int | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.patch = shape[0], classes, patch
        self.images = images(conditions)
        seen = self.channels + sum(shape[0] for shape in self.images.values())
        made = self.channels * (2 if variance else 1)
        rows, columns = (side // patch for side in shape[1:])
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(seen, width, patch, stride=patch)})
        layers = nn.Linear(WAVES, width), nn.SiLU(), nn.Linear(width, width)
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(*layers)})
        if classes:
            self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, width)})
        self.register_buffer("pos_embed", places(rows, columns, width)[None])
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.features_at = f"blocks.{(depth - 1) // 2}"
        self.final_layer = Last(width, made * patch**2)
        self._draw()
        self.slowing = slowing(time_scale) if slow_times else 1.0
        self.slowed = self.slowing < 1
        self.split_after = split_after
        spans = second_time and split_after is None
        self.until = Span(WAVES // 2, width, time_scale) if spans else None
        self.guidance = Scale(WAVES // 2, width) if guidance_input else None
        self.others = Embedded(conditions, width)

    @torch.no_grad()
    def _draw(self) -> None:
        """Draw the weights; blocks begin as the identity, and the output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                zero(module)
                nn.init.xavier_uniform_(module.weight.flatten(1))
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.t_embedder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for part in (*self.blocks, self.final_layer):
            zero(part.adaLN_modulation)
        zero(self.final_layer.linear)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        until: Tensor | None = None,
        **others: Tensor,
    ) -> Tensor:
        """Return the output (n, channels, height, width) for t, label, until (n,) and others (n, ...).

        No label is the null label; no until is t, if the network has a second time.

        Raises:
            UserError: if there is a label but the network has no classes, or a second time but it has one.
        """
        rows, columns = (side // self.patch for side in x.shape[2:])
        seen = torch.cat(beside(x, others, self.images), dim=1)
        tokens = self.x_embedder["proj"](seen).flatten(2).mT + self.pos_embed
        split = self.split_after
        first = then = self._condition(x, t, label, None if split else until, others)
        if split and until is not None:
            then = self._condition(x, until, label, None, others)
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, then if split and number >= split else first)
        pixels = self.final_layer(tokens, then).unflatten(2, (self.patch**2, -1))
        pixels = pixels[..., : self.channels]  # those of a variance come after them
        pixels = pixels.permute(0, 3, 2, 1).flatten(1, 2).unflatten(2, (rows, columns))
        return functional.pixel_shuffle(pixels, self.patch)

    def _condition(
        self, x: Tensor, t: Tensor, label: Tensor | None, until: Tensor | None, others: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the embedding (n, width), in the type of x, of what blocks are given beside their tokens."""
        condition = self.t_embedder["mlp"](self.waves(t).to(x.dtype))
        condition = with_more(
            condition, t, until, others, span=self.until, scale=self.guidance, embedded=self.others
        )
        if self.classes:
            label = torch.full(t.shape, self.classes, device=t.device) if label is None else label
            return condition + self.y_embedder["embedding_table"](label)
        if label is not None:
            raise UserError("a label was given to a network without classes")
        return condition

    def fast_waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return waves(t)

    def waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return waves(self.slowing * t)

    def time_layers(self) -> nn.Sequential:
        """See Timed."""
        layers: nn.Sequential = self.t_embedder["mlp"]  # type: ignore[assignment]
        return layers


class Block(nn.Module):
    """Attention, then two layers, each beside a skip and under a gate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = GROWTH * width
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (n, tokens, width)."""
        shift, scale, gate, *of_layers = self.adaLN_modulation(condition)[:, None].chunk(6, dim=2)
        x = x + gate * self._attend(self.norm(x) * (1 + scale) + shift)
        shift, scale, gate = of_layers
        hidden = self.mlp["fc1"](self.norm(x) * (1 + scale) + shift)
        return x + gate * self.mlp["fc2"](functional.gelu(hidden, approximate="tanh"))

    def _attend(self, x: Tensor) -> Tensor:
        parts = self.attn["qkv"](x).unflatten(2, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        return self.attn["proj"](seen.transpose(1, 2).flatten(2))


class Last(nn.Module):
    """A modulated layer from tokens to pixels."""

    def __init__(self, width: int, made: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.linear = nn.Linear(width, made)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (n, tokens, made)."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=2)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def waves(t: Tensor, features: int = WAVES) -> Tensor:
    """Return cosines and sines of a time, (n, features), in float32 as times are."""
    half = features // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angle = t[:, None] * torch.exp(math.log(SLOWEST) * exponents)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def places(rows: int, columns: int, width: int) -> Tensor:
    """Return sines and cosines of the column, then of the row, of each patch, (rows * columns, width)."""
    quarter = width // 4
    speeds = SLOWEST ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.arange(rows).double(), torch.arange(columns).double()
    across = torch.cartesian_prod(row, column).flip(1)  # (patches, 2): column, row
    angle = across[..., None] * speeds
    return torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1).float()
