"""Where the pairs of a coupling come from: made here, taken from elsewhere, or real data inverted."""

from typing import Literal

from pydantic import Field

from fewstep.data import path_of
from fewstep.errors import UserError
from stages.settings.steps import StepSettings


class PairSource(StepSettings):
    """Where a pair comes from, and the steps that make it."""

    source: str | None = None
    """Pairs that another tool made with that model, to be taken instead of made here: under data/, an .npz of
    noise and data, or WebDataset tar files; see docs/bring-your-own-pairs.md."""
    noise: Literal["drawn", "stored"] = "drawn"
    """Whether noise is drawn again when pairs are read, which halves their bytes, or stored, which reads
    faster; that of pairs from a source is always stored."""
    invert: float = Field(0.0, ge=0, le=1)
    """Share of the pairs that are made of real data, by the flow in reverse; true is all of them. Their noise
    is always stored, and checked as that of all, and alone."""

    def wrong_source(self, where: str) -> list[str]:
        """Return what is wrong with where the pairs come from; `where` is the section, for messages."""
        drawn = self.noise == "drawn" and "noise" in self.model_fields_set
        if self.invert:
            return self._wrong_inversion(where, drawn=drawn)
        if self.source is None:
            return []
        try:
            path_of(self.source)
        except UserError as error:
            return [f"{where}.{error}"]
        if drawn:
            return [f"{where}.noise: that of pairs from {self.source} can't be drawn; remove this setting"]
        return []

    def _wrong_inversion(self, where: str, *, drawn: bool) -> list[str]:
        problems = []
        if self.source is not None:
            problems.append(
                "invert makes pairs of the data, but source takes them from elsewhere; remove one"
            )
        if self.tolerance is not None:
            problems.append(
                "invert follows steps in reverse, and tolerance leaves them open; set nfe or times"
            )
        if drawn:
            problems.append("noise: that of inverted data can't be drawn; remove this setting")
        return [f"{where}.{problem}" for problem in problems]
