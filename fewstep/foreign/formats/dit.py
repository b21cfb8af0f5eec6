"""Dit: the state dict of a network of DiT's code, in safetensors."""

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
class Dit:
    """Settings of the format; Peebles and Xie 2023 (arXiv 2212.09748)."""

    marks: ClassVar[tuple[str, ...]] = ("y_embedder.embedding_table.weight",)

    heads: int | None = None
    """Heads of an attention; if nobody says, those of its size, S, B, L or XL."""

    def look(self, folder: Path) -> Found:
        """See Format.look; a network of DiT predicts noise, by the index of a table of 1000 levels."""
        table = {"name": "table", "num_train_timesteps": 1000, "beta_schedule": "linear"}
        table |= {"beta_start": 0.0001, "beta_end": 0.02}
        declared = {"prediction": "noise", "path": table, "time": "1-t", "time_scale": 999.0}
        return transformer_weights.look(folder, self.heads, declared)
