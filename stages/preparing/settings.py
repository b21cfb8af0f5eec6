"""Groups of settings of the prepare stage."""

from typing import Literal

from pydantic import Field

from stages.settings.fields import Settings


class TextEncoders(Settings):
    """Settings of what makes conditions of the texts of samples; see fewstep.foreign.text_encoders."""

    folder: str
    """The folder of a pipeline with its text encoders, below data/."""
    negative: str | None = None
    """What guidance is to lead away from; null leaves it to the pipeline, for most of which it is an empty
    text."""
    tokens: int | None = Field(None, ge=1)
    """How many tokens of a long text are encoded; null takes as many as the pipeline does."""


class CodecSettings(Settings):
    """Settings of the autoencoder in whose latents models work; see fewstep.codec."""

    folder: str
    """The folder of an AutoencoderKL as diffusers writes it, or of a pipeline that has one, below data/."""
    encode: Literal["mean", "sample"] = "mean"
    """Whether an image becomes the mean of the encoder's Gaussian, or a draw from it. A source of latents is
    taken as it is."""
