"""Transformers: a vision model in a folder as the library transformers writes it: CLIP, or DINOv2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.metrics.backend import Backend

with lazy_imports():
    from fewstep.metrics import vision


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """Settings of a vision model."""

    folder: str
    """The folder with its config.json, its safetensors and preprocessor_config.json, and of a CLIP that shall
    compare images with texts its tokenizer, below data/."""

    def paths(self) -> dict[str, str]:
        """See fewstep.metrics.backends.Options."""
        return {"folder": self.folder}

    def load(self, places: Mapping[str, Path], device: str) -> Backend:
        """See fewstep.metrics.backends.Options."""
        return vision.read(places["folder"], device)
