"""Scripted: the features of a network of torch.jit, of images resized as clean-fid does."""

import io
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import UserError, first_line
from fewstep.lazy import brought_by, lazy_imports
from fewstep.metrics.backend import Backend

with lazy_imports(error_callback=brought_by("images", what="resizing images", library="pillow")):
    from PIL import Image

BATCH = 50  # of network calls; fixed, because rounding differs a little between batch sizes


class Scripted(Backend):
    """A scripted network; Parmar et al. 2022 (arXiv 2104.11222) say why the resize matters.

    Args:
        file: Where it lies, for messages.
        content: Of the file.
        digest: Its sha256.
        side: Of images as the network sees them.
        value_range: What black and white are for it.
        part: The submodule to call; None calls the whole.
        inception: See Backend.
        device: Where it runs.

    Raises:
        UserError: if it is no scripted network, or has no such part.
    """

    def __init__(
        self,
        file: Path,
        content: bytes,
        *,
        digest: str,
        side: int,
        value_range: tuple[float, float],
        part: str | None,
        inception: bool,
        device: str,
    ) -> None:
        (low, high), called = value_range, f", {part}" if part else ""
        super().__init__(
            f"torchscript sha256:{digest[:8]}{called}, 8 bits, bicubic to {side} (Pillow, float), values "
            f"{low:g} to {high:g}",
            inception=inception,
        )
        self.file, self.side, self.value_range, self.device = file, side, value_range, device
        try:
            network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
            self.network = attrgetter(part)(network) if part else network
        except (RuntimeError, AttributeError, ValueError) as error:
            told = first_line(error)
            raise UserError(f"{file} can't be read as a network of torch.jit ({told})") from error

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """See Backend.features."""
        low, high = self.value_range
        made = []
        for part in images.split(BATCH):
            seen = resized(part, self.side) * ((high - low) / 255) + low
            try:
                found = self.network(seen.to(self.device))
            except RuntimeError as error:
                told = str(error).strip().splitlines()[-1]
                raise UserError(
                    f"{self.file} can't be called with images {tuple(seen.shape)} ({told}); name its part"
                ) from error
            if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != len(part):
                raise UserError(f"{self.file} makes no features (n, d) of n images; name its part")
            made.append(found.flatten(1).float().cpu())
        return torch.cat(made)


def resized(images: Tensor, side: int) -> Tensor:
    """Return uint8 images (n, C, height, width) as float32 of that side, 0 to 255, each channel by itself."""
    if tuple(images.shape[2:]) == (side, side):
        return images.float()
    planes = images.flatten(0, 1).numpy().astype(np.float32)
    made = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC)) for plane in planes
    ]
    return torch.from_numpy(np.stack(made)).clamp(0, 255).unflatten(0, images.shape[:2])
