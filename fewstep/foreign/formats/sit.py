"""Sit: the state dict of a network of SiT's code, in safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.foreign.found import Found

with lazy_imports():
    from fewstep.foreign import transformer_weights


@dataclass(frozen=True, kw_only=True)
class Sit:
    """Settings of the format; Ma et al. 2024 (arXiv 2401.08740)."""

    marks: ClassVar[tuple[str, ...]] = ("y_embedder.embedding_table.weight",)

    heads: int | None = None
    """Heads of an attention; if nobody says, those of its size, S, B, L or XL."""

    def look(self, folder: Path) -> Found:
        """See Format.look; a network of SiT predicts the velocity of the linear path, by its time."""
        declared = {"prediction": "velocity", "path": "linear", "time": "t", "time_scale": 1.0}
        return transformer_weights.look(folder, self.heads, declared)
