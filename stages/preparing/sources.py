"""Where samples come from: a source of data, or a model whose samples stand in for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.data import Samples, source_for, split, without_empty_classes
from stages.preparing import teacher

if TYPE_CHECKING:
    from stages.run.job import Job


def read(config: Any, job: Job, least: tuple[int, int]) -> Samples:
    """Return the samples of the source, or those that the teacher makes.

    Args:
        config: Of the stage prepare.
        job: Its job.
        least: The fewest samples that are needed to train on, and of those held out.

    Raises:
        UserError: if there are none, or too few are asked of a teacher.
    """
    if config.source is None:
        split(config.teacher.samples, config.held_out, job.seed, at_least=least)  # before any is made
        return teacher.samples_of(config, job)
    here = Path()  # holds data/
    return without_empty_classes(source_for(config.source, here, **config.source_options).load(here))
