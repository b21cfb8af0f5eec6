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
    conditions: dict[str, Literal["encode", "shrink"]] = Field({})
    """What is done with conditions that are images in the size of those that are encoded, by their names; see
    fewstep.latent_conditions. encode makes latents of them, shrink a number of each latent's square of
    pixels, their mean, as for masks. Others must have the size of latents already."""
