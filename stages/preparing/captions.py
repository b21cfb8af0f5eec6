"""Conditions of samples, made of their texts by the encoders of a pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fewstep.data import Samples
from fewstep.errors import UserError
from fewstep.foreign import text_encoders
from stages.process.device import device

if TYPE_CHECKING:
    from stages.run.job import Job


def with_texts_encoded(source: Samples, config: Any, job: Job) -> Samples:
    """Return samples with the conditions that encoders make of their texts; as they are without encoders.

    Args:
        source: Images or latents.
        config: Of the stage prepare.
        job: Its job.

    Raises:
        UserError: if the source has no texts, or conditions already, or the encoders can't be read.
    """
    if config.text_encoders is None:
        return source
    shape = source.data.shape[1:]
    if not source.texts or len(shape) != 3:
        raise UserError(
            "prepare.text_encoders encode what images show, and the source does not say it; give an .npz the "
            "array texts and no conditions, or set prepare.source_options.texts to a column of a folder's "
            "metadata.csv"
        )
    folder, size = job.inputs["text_encoders"], (shape[1], shape[2])
    size = text_encoders.pixels(folder, size) if source.latents else size
    pipeline = text_encoders.read(folder, size=size, tokens=config.text_encoders.tokens, device=device())
    negative = config.text_encoders.negative
    table = text_encoders.table_of(pipeline, source.texts, {}, negative=negative, progress=job.progress)
    return replace(source, conditions=table)
