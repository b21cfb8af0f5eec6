"""Torch module of the U-Net of guided diffusion; settings and description are in fewstep.models.adm."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.conditions import Shapes, images
from fewstep.errors import UserError
from fewstep.networks.dit import waves
from fewstep.networks.embedding import Scale, Span, Timed, slowing, with_more, zero
from fewstep.networks.given import Embedded, beside

GROUPS = 32


class AdmNetwork(Timed, nn.Module):
    """A U-Net with a skip from each block; Dhariwal and Nichol 2021 (arXiv 2105.05233), section 3.

    Its weights have the names that they have in the code of guided diffusion and torchcfm, so that a state
    dict of these is one of this network, and the other way round. What a second time, guidance and conditions
    beside the label add to the embedding of the time has layers of its own.
    """

    features_at = "middle_block"

    def __init__(
        self,
        channels: int,
        labels: int,
        *,
        null: int | None,
        width: int,
        levels: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        heads: int,
        head_channels: int | None,
        heads_first: bool,
        scale_shift: bool,
        resample_blocks: bool,
        variance: bool,
        conditions: Shapes,
        second_time: bool = False,
        slow_times: bool = False,
        guidance_input: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.null = channels, width, null
        self.images = images(conditions)
        embedded = 4 * width

        def block(channels: int, out: int, resize: str = "") -> Block:
            return Block(channels, out, embedded, scale_shift=scale_shift, resize=resize)

        def attend(channels: int) -> Attention:
            count = channels // head_channels if head_channels else heads
            return Attention(channels, count, heads_first=heads_first)

        layers = nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded)
        self.time_embed = nn.Sequential(*layers)
        if labels:
            self.label_emb = nn.Embedding(labels, embedded)
        now, skips = levels[0], [levels[0]]
        seen = channels + sum(shape[0] for shape in self.images.values())
        self.input_blocks = nn.ModuleList([Row([nn.Conv2d(seen, now, 3, padding=1)])])
        for level, out in enumerate(levels):
            if level:
                down = block(now, now, "down") if resample_blocks else Down(now)
                self.input_blocks.append(Row([down]))
                skips.append(now)
            for _ in range(blocks):
                self.input_blocks.append(
                    Row([block(now, out), *([attend(out)] if level in attention else [])])
                )
                now = out
                skips.append(now)
        self.middle_block = Row([block(now, now), attend(now), block(now, now)])
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(levels))):
            for number in range(blocks + 1):
                row: list[nn.Module] = [block(now + skips.pop(), out)]
                row += [attend(out)] if level in attention else []
                if level and number == blocks:
                    row.append(block(out, out, "up") if resample_blocks else Up(out))
                self.output_blocks.append(Row(row))
                now = out
        made = channels * (2 if variance else 1)
        self.out = nn.Sequential(norm(now), nn.SiLU(), nn.Conv2d(now, made, 3, padding=1))
        zero(self.out[2])
        self.slowing = slowing(time_scale) if slow_times else 1.0
        self.slowed = self.slowing < 1
        self.until = Span(width // 2, embedded, time_scale) if second_time else None
        self.guidance = Scale(width // 2, embedded) if guidance_input else None
        self.others = Embedded(conditions, embedded)

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
            UserError: if there is a label but the network has no classes, or none and it has no null label,
                or a second time but it has one.
        """
        condition = self.time_embed(self.waves(t).to(x.dtype))
        condition = with_more(
            condition, t, until, others, span=self.until, scale=self.guidance, embedded=self.others
        )
        if hasattr(self, "label_emb"):
            if label is None:
                if self.null is None:
                    raise UserError(
                        "the network has classes without a null condition: give each sample a label"
                    )
                label = torch.full(t.shape, self.null, device=t.device)
            condition = condition + self.label_emb(label)
        elif label is not None:
            raise UserError("a label was given to a network without classes")
        h, skips = torch.cat(beside(x, others, self.images), dim=1), []
        for row in self.input_blocks:
            h = row(h, condition)
            skips.append(h)
        h = self.middle_block(h, condition)
        for row in self.output_blocks:
            h = row(torch.cat([h, skips.pop()], dim=1), condition)
        return self.out(h)[:, : self.channels]  # those of a variance come after them

    def fast_waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return waves(t, self.width)

    def waves(self, t: Tensor) -> Tensor:
        """See Timed."""
        return waves(self.slowing * t, self.width)

    def time_layers(self) -> nn.Sequential:
        """See Timed."""
        return self.time_embed


class Row(nn.ModuleList):
    """Layers one after the other, of which blocks are given the condition."""

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return what the last layer makes, (n, channels, height, width)."""
        for layer in self:
            x = layer(x, condition) if isinstance(layer, Block) else layer(x)
        return x


class Block(nn.Module):
    """Two convolutions beside a skip; it may halve or double the sides between norm and convolution."""

    def __init__(self, channels: int, out: int, embedded: int, *, scale_shift: bool, resize: str) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, 2 * out if scale_shift else out))
        last = nn.Conv2d(out, out, 3, padding=1)
        self.out_layers = nn.Sequential(norm(out), nn.SiLU(), nn.Identity(), last)  # third: their dropout
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        zero(last)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (n, out, height, width)."""
        h = self.in_layers[2](resized(self.in_layers[:2](x), self.resize))
        told = self.emb_layers(condition)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(resized(x, self.resize)) + h


class Attention(nn.Module):
    """Every pixel looks at every other, beside a skip."""

    def __init__(self, channels: int, heads: int, *, heads_first: bool) -> None:
        super().__init__()
        self.heads, self.heads_first = heads, heads_first
        self.norm = norm(channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)
        zero(self.proj_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, height, width)."""
        parts = self.qkv(self.norm(x).flatten(2))
        if self.heads_first:  # the channels are heads of queries, keys and values; else the other way round
            parts = parts.unflatten(1, (self.heads, 3, -1)).transpose(1, 2)
        else:
            parts = parts.unflatten(1, (3, self.heads, -1))
        q, k, v = parts.mT.unbind(1)
        seen = functional.scaled_dot_product_attention(q, k, v).mT
        return x + self.proj_out(seen.flatten(1, 2)).view_as(x)


class Down(nn.Module):
    """A convolution that halves the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, height / 2, width / 2)."""
        return self.op(x)


class Up(nn.Module):
    """Pixels that are doubled, and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, 2 height, 2 width)."""
        return self.conv(resized(x, "up"))


def resized(x: Tensor, resize: str) -> Tensor:
    """Return x (n, channels, height, width) with its sides halved ("down"), doubled ("up") or as they are."""
    if resize == "up":
        return functional.interpolate(x, scale_factor=2)
    return functional.avg_pool2d(x, 2) if resize == "down" else x


def norm(channels: int) -> nn.GroupNorm:
    """Return the norm of their code."""
    return nn.GroupNorm(GROUPS, channels)
