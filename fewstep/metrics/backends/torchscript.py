"""Torchscript: a network in a file of torch.jit, which the user names with its sha256."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.metrics.backend import Backend

with lazy_imports():
    from fewstep.metrics import scripted

FID = {
    "sha256": "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    "side": 299,
    "value_range": (-1.0, 127 / 128),
    "part": "layers",
}
"""The Inception network of 2015 (inception-2015-12-05.pt of StyleGAN and clean-fid), called as clean-fid
does: a distance of its features alone is called FID."""


@dataclass(frozen=True, kw_only=True)
class Torchscript:
    """Settings of a scripted network.

    Raises:
        UserError: if the sha256 is none, the side is below 1, or the range is none.
    """

    file: str
    """The file, below data/."""
    sha256: str
    """Its digest, 64 hexadecimal digits; another file is refused."""
    side: int = 299
    """Height and width to which images are resized, as clean-fid does: bicubic, with Pillow, in float."""
    value_range: tuple[float, float] = (0.0, 255.0)
    """What black and white are for the network."""
    part: str | None = None
    """The submodule to call; null calls the whole."""

    def __post_init__(self) -> None:
        digest = self.sha256.lower()
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise UserError(f"sha256 must be 64 hexadecimal digits, as sha256sum prints, got {self.sha256!r}")
        object.__setattr__(self, "sha256", digest)
        low, high = self.value_range
        object.__setattr__(self, "value_range", (low, high))
        if self.side < 1 or not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(
                f"side must be from 1 and value_range [black, white], got {self.side} and [{low:g}, {high:g}]"
            )

    @property
    def inception(self) -> bool:
        """Whether its features are those of FID."""
        return all(getattr(self, name) == value for name, value in FID.items())

    def paths(self) -> dict[str, str]:
        """See fewstep.metrics.backends.Options."""
        return {"file": self.file}

    def load(self, places: Mapping[str, Path], device: str) -> Backend:
        """See fewstep.metrics.backends.Options."""
        content = places["file"].read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise UserError(
                f"{places['file']} has sha256 {found}, not {self.sha256}; put there what is meant, or "
                "set sha256 to its digest"
            )
        return scripted.Scripted(
            places["file"],
            content,
            digest=self.sha256,
            side=self.side,
            value_range=self.value_range,
            part=self.part,
            inception=self.inception,
            device=device,
        )
