"""Settings of where the samples of the prepare stage come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from fewstep.data import path_of, source_for
from fewstep.errors import UserError
from stages.settings.adopted import AdoptedSettings, misplaced, read_of
from stages.settings.fields import Count, Guidance, Settings, SolverName


class TeacherSettings(AdoptedSettings):
    """Settings of a model whose samples stand in for data; with what is said of a model, as in adopt."""

    samples: int = Field(ge=1)
    """How many it makes, of both splits together."""
    shape: tuple[Count, ...] | None = None
    """Of a sample, (channels, height, width) or (features,); null takes what the folder says."""
    latents: bool = False
    """Whether its samples are latents, not images in [-1, 1]; with prepare.codec they always are."""
    solver: SolverName = "ab2"
    """The solver that makes them."""
    nfe: int = Field(64, ge=1)
    """NFE of a sample: take so many that more change little."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale that they are made with; 1 is none."""
    batch: int = Field(64, ge=1)
    """Samples in one network call."""


class SourceSettings(Settings):
    """Settings of where samples come from: data or, where there is none, a model."""

    source: str | None = None
    """digits, patches (colour), a toy's name, or the path of an .npz file or a folder of images in data/;
    null where there is no data."""
    source_options: dict[str, Any] = Field({}, validate_default=True)
    """Settings of the source's own, such as count for a toy or value_range for an .npz of floats."""
    teacher: TeacherSettings | None = None
    """A model of another library whose samples stand in for data; null where there is data."""

    @model_validator(mode="after")
    def _one_of_both(self) -> SourceSettings:
        if self.source is None and self.teacher is None:
            raise ValueError("set source or teacher")
        if self.source is not None and self.teacher is not None:
            raise ValueError("source and teacher are both set; remove one")
        if self.teacher and self.source_options:
            raise ValueError("source_options are those of a source, and there is none; remove them")
        return self

    @property
    def named(self) -> str:
        """Where samples come from, for people."""
        return self.source or f"samples of {self.teacher and self.teacher.folder}"


def read_of_source(config: SourceSettings) -> dict[str, str]:
    """Return what is read of data/: a file or folder that is there, or what makes samples."""
    if config.teacher:
        return read_of(config.teacher)
    path = path_of(config.source or "")
    return {"source": path} if path and Path(path).exists() else {}


def wrong_source(config: SourceSettings) -> list[str]:
    """Return what is wrong with a source's name or options, or with a teacher's place."""
    if config.teacher:
        return misplaced("prepare.teacher", config.teacher)
    try:
        if config.source and path_of(config.source) is None:
            source_for(config.source, Path(), **config.source_options)
    except UserError as error:
        return [f"prepare: {error}"]
    return []
