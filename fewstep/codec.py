"""Codec: the autoencoder in whose latents a model works; people and metrics see its images.

After Rombach et al. 2022 (arXiv 2112.10752): a latent is scaled so that it has about the variance of noise,
z = (latent - shift) * scaling, with the scaling_factor and shift_factor of the autoencoder's own config.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.files import read_text
from fewstep.foreign import library, weights
from fewstep.lazy import brought_by, lazy_imports
from fewstep.rows import Changed, Rows

with lazy_imports(error_callback=brought_by("foreign", what="an autoencoder", library="diffusers")):
    import diffusers

PREPARED = "codec"
"""Its folder in what `prepare` writes."""
CONFIG, WEIGHTS, COMPONENT = "config.json", weights.WHOLE, "vae"
CLASS = "AutoencoderKL"
ROUNDS = 8  # of power iteration
SMALL = 1e-2  # root mean square of a latent's change in a measured derivative; the latent's own is about 1
BATCH = 16  # of network calls; fixed, because rounding differs a little between batch sizes


@dataclass(frozen=True)
class Codec:
    """An autoencoder of diffusers, with the scale of its latents."""

    network: Any  # diffusers.AutoencoderKL, whose library has no types
    scaling: float
    """A latent z is (what the encoder gives - shift) * scaling."""
    shift: float

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (n, C, H, W), meant for [-1, 1], of latents (n, c, h, w), on their device."""
        return self._by_batch(self.images, latents)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the latents (n, c, h, w) of images (n, C, H, W) in [-1, 1], on the images' device.

        They are the means of the encoder's Gaussians, or with `noise`, (n, c, h, w), draws from these.
        """

        def latents(part: Tensor) -> Tensor:
            found = self.network.encode(part).latent_dist
            return torch.stack([found.mean, found.std])

        mean, std = self._by_batch(latents, images, dim=1)
        return ((mean if noise is None else mean + std * noise) - self.shift) * self.scaling

    @torch.no_grad()
    def _by_batch(self, call: Callable[[Tensor], Tensor], samples: Tensor, dim: int = 0) -> Tensor:
        own = next(self.network.parameters())
        return torch.cat(
            [call(part.to(own)).to(samples) for part in samples.split(BATCH)], dim=dim
        ).contiguous()

    def stretch(self, latents: Tensor) -> float:
        """Return the largest factor by which decoding stretches a small change of these latents (n, c, h, w).

        That is the largest singular value of its derivative at any of them, by power iteration, so a lower
        bound of the Lipschitz constant L in W2(images) <= L W2(latents) + what the autoencoder loses; Dao et
        al. 2023 (arXiv 2307.08698). Lengths are norms over all numbers of a sample.
        """
        own = next(self.network.parameters())
        z = latents.to(own)
        draw = torch.Generator().manual_seed(0)
        change, longest = torch.randn(z.shape, generator=draw).to(z), 0.0
        for _ in range(ROUNDS):
            change = change / change.flatten(1).norm(dim=1)[:, None, None, None]
            small = SMALL * z[0].numel() ** 0.5 * change
            with torch.enable_grad():
                at = z.clone().requires_grad_()
                images = self.images(at)
                moved = (self.images(z + small) - images).detach() / (SMALL * z[0].numel() ** 0.5)
                (change,) = torch.autograd.grad(images, at, moved)
            longest = float(moved.flatten(1).norm(dim=1).max())
        return longest

    def images(self, latents: Tensor) -> Tensor:
        """Return the images (n, C, H, W) of latents (n, c, h, w), with their derivatives."""
        return self.network.decode(latents / self.scaling + self.shift).sample

    def to(self, device: str | torch.device) -> Codec:
        """Move the network to a device."""
        self.network.to(device)
        return self

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide and high."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def image_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (C, H, W) of the images of latents of a shape (c, h, w)."""
        return (self.network.config.out_channels, *(side * self.factor for side in shape[1:]))

    def must_encode(self, shape: Sequence[int]) -> None:
        """Refuse images of a shape (C, H, W) that the autoencoder does not take.

        Raises:
            UserError: naming both.
        """
        channels = self.network.config.in_channels
        if shape[0] != channels or any(side % self.factor for side in shape[1:]):
            raise UserError(
                f"the codec takes images of {channels} channels whose sides are multiples of {self.factor}, "
                f"the data has {tuple(shape)}"
            )

    def must_decode(self, shape: Sequence[int]) -> None:
        """Refuse latents of a shape (c, h, w) that are not the autoencoder's.

        Raises:
            UserError: naming both numbers of channels.
        """
        if len(shape) != 3 or shape[0] != (channels := self.network.config.latent_channels):
            raise UserError(f"the codec has latents of {channels} channels, the data has {tuple(shape)}")

    def save(self, folder: Path) -> None:
        """Write what `read` reads, in the form of diffusers."""
        folder.mkdir(parents=True)
        config = {"_class_name": CLASS, **library.own_options(dict(self.network.config))}
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        state = {name: each.cpu().contiguous() for name, each in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)


def seen(samples: Tensor, codec: Codec | None) -> Tensor:
    """Return samples (n, *shape) as people see them: decoded, if there is a codec."""
    return samples if codec is None else codec.decode(samples)


def decoded(rows: Rows, codec: Codec | None) -> Rows:
    """Return rows as people see them, decoded when they are asked for."""
    return rows if codec is None else Changed(rows, codec.decode)


def of_prepared(prepared: Path) -> Codec | None:
    """Return the codec of what `prepare` wrote; None where samples are seen as they are."""
    return read(prepared / PREPARED) if (prepared / PREPARED).exists() else None


def read(folder: Path) -> Codec:
    """Return the codec of a folder: of an autoencoder, or of a pipeline that has one.

    Raises:
        UserError: if it holds none, of another class, or its weights are not its own.
    """
    place = folder / COMPONENT if (folder / COMPONENT / CONFIG).exists() else folder
    config = _config_of(place)
    library.refuse_unknown(CLASS, config)
    try:
        network: Any = diffusers.AutoencoderKL(**library.own_options(config))
    except (TypeError, ValueError) as error:
        raise UserError(f"diffusers can't build {CLASS} from {place / CONFIG}: {error}") from error
    weights.fill(network, weights.files_of(place))
    network.eval().requires_grad_(False)
    scaling, shift = (_number(place, network, name) for name in ("scaling_factor", "shift_factor"))
    return Codec(network, 1.0 if scaling is None else scaling, 0.0 if shift is None else shift)


def _config_of(place: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_text(place / CONFIG))
    except FileNotFoundError:
        raise UserError(
            f"{place} has no {CONFIG}: name the folder of an {CLASS} as diffusers writes it, or of a pipeline"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place / CONFIG} is no JSON ({error})") from error
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name != CLASS:
        raise UserError(f"{place} holds {name or 'no network of diffusers'}; a codec must be an {CLASS}")
    return config


def _number(place: Path, network: nn.Module, name: str) -> float | None:
    value = getattr(network.config, name)
    scales = name == "scaling_factor"
    if value is None or (isinstance(value, int | float) and math.isfinite(value) and (value or not scales)):
        return value
    wanted = "a number other than 0" if scales else "a number"
    raise UserError(f"{place / CONFIG}: {name} must be {wanted}, got {value!r}")
