"""One entry of the evaluation: a model, sampled on a grid and scored by the protocol of fewstep.metrics.

Entries are kept in a folder that all evaluations share, under a digest of everything that decides them:
a changed student costs its own entries alone, and a killed evaluation goes on at the next entry.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.grids import Grid
from fewstep.metrics.protocol import BlockScores
from fewstep.refining import Blocks
from stages.evaluation import kept_files, kinds
from stages.settings.fields import Named


@dataclass(frozen=True)
class Refinement:
    """What takes the steps beside a model's own calls."""

    refiner: str
    """Its name among the models."""
    digest: str
    """Of the refiner."""
    blocks: Blocks


@dataclass(frozen=True)
class Entry:
    """What to sample: a model on a grid."""

    model: str
    kind: str
    """Where the grid comes from: one of stages.evaluation.kinds, or the name of a search."""
    grid: Grid
    nfe: int
    digest: str
    """Of the model."""
    guidance: float
    """The scale of classifier-free guidance that its samples show: the grid's, or what it was taught."""
    sampler: Named | None = None
    """What takes the steps instead of the grid's solver; see fewstep.samplers."""
    refinement: Refinement | None = None
    """The blocks of steps, and the refiner that takes the last; see fewstep.refining."""

    @property
    def name(self) -> str:
        """Such as boss-4@4, or base@4/bellman for a grid that is neither equal steps nor its own."""
        plain = self.kind in (kinds.EQUAL, kinds.OWN)
        suffix = "" if plain else f"/{self.kind}"
        scale = self.given or (self.guidance if self.kind == kinds.FINE else 1)
        guided = f", guidance {scale:g}" if scale != 1 else ""
        return f"{self.model}@{self.nfe}{suffix}{guided}"

    @property
    def given(self) -> float | None:
        """The scale of guidance that a student is given as an input; None of any other model, and of 1."""
        plain = self.kind in (kinds.EQUAL, kinds.OWN)
        return self.grid.guidance if plain and self.grid.guidance != 1 else None


@dataclass(frozen=True)
class Result:
    """What was measured of an entry."""

    scores: tuple[BlockScores, ...]
    """By each net."""
    more: dict[str, float | None]
    samples: Tensor  # (n, *shape), some samples as they are shown
    ends: Tensor  # (m, *shape), where the first noises ended
    features: dict[str, dict[str, float]] = field(default_factory=dict)
    """By each network that the user asked for; see stages.evaluation.by_features."""

    def without_ends(self) -> "Result":
        """Return the same without `ends`, which may be large and are kept on disk."""
        return replace(self, ends=self.ends[:0])


class KeptEntries:
    """The folder of finished entries; other evaluations may read and write it meanwhile.

    An evaluation touches `began` when it starts, and then every entry that it uses: what is older than
    `began`, the newest evaluation has no use for (`fewstep gc`).
    """

    def __init__(self, folder: Path, *facts: Any) -> None:
        """`facts` decide all entries alike: the protocol, the prepared data, the version of the code."""
        self.folder, self.facts = folder, facts
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "began").touch()

    def read(self, entry: Entry, say: Callable[[str], None] = lambda text: None) -> Result | None:
        """Return what was measured of an entry, None if it was not, or is damaged, which `say` prints."""
        try:
            found, tensors = kept_files.read(self._file(entry))
            scores = tuple(
                BlockScores(**by_net | {"fd_without": tuple(by_net["fd_without"])})
                for by_net in found["scores"]
            )
            return Result(scores, found["more"], **tensors, features=found.get("features", {}))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{entry.name} is measured again: {error}")
            return None

    def ends(self, entry: Entry) -> Tensor:
        """Return where the first noises of a kept entry ended, (n, *shape)."""
        return kept_files.read(self._file(entry))[1]["ends"]

    def write(self, entry: Entry, result: Result) -> None:
        """Keep an entry, whole or not at all."""
        scores = [asdict(by_net) for by_net in result.scores]
        facts = {"scores": scores, "more": result.more, "features": result.features}
        kept_files.write(self._file(entry), facts, {"samples": result.samples, "ends": result.ends})

    def forget(self, entry: Entry) -> None:
        """Remove what is kept of an entry."""
        self._file(entry).unlink(missing_ok=True)

    def _file(self, entry: Entry) -> Path:
        sampler = [entry.sampler.named()] if entry.sampler else []
        refinement = [asdict(entry.refinement)] if entry.refinement else []
        decides = json.dumps(
            [entry.digest, entry.grid.to_json(), *sampler, *refinement, *self.facts], sort_keys=True
        )
        return self.folder / f"{hashlib.sha256(decides.encode()).hexdigest()[:32]}.json"
