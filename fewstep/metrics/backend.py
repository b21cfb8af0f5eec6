"""Backend: a network of the user's in whose features images are measured, and the names of its distances."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.metrics.frechet import Moments
from fewstep.metrics.saved import levels

LEAST_FID = 10_000
"""Samples from which a Fréchet distance of Inception features is called FID; of fewer it is biased."""
MEAN, COVARIANCE = "mu", "sigma"
"""The arrays of reference statistics, as in the files of ADM and pytorch-fid."""


class Backend:
    """A file of fewstep.metrics.backends makes one.

    Args:
        protocol: What decides its numbers: which network, and how images come to it.
        inception: Whether it is the network of FID.
        compares_texts: Whether it tells how well an image fits a text.
    """

    def __init__(self, protocol: str, *, inception: bool = False, compares_texts: bool = False) -> None:
        self.protocol, self.inception, self.compares_texts = protocol, inception, compares_texts

    def features(self, images: Tensor) -> Tensor:
        """Return the features (n, d) of images as they are saved, uint8 (n, 3, height, width), on the CPU."""
        raise NotImplementedError

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosine between the embeddings of each image and its text, (n,)."""
        raise NotImplementedError


def saved_bytes(images: Tensor) -> Tensor:
    """Return images (n, 1 or 3, height, width) in [-1, 1] as they are saved: uint8 (n, 3, height, width)."""
    return levels(images).to(torch.uint8).expand(-1, 3, -1, -1).cpu()


def must_be_images(shape: Sequence[int], *, pixels: bool) -> None:
    """Refuse samples that are no grey or colour images.

    Raises:
        UserError: naming their shape.
    """
    if not pixels or len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"evaluate.features measures images of 1 or 3 channels; samples here have shape {tuple(shape)}: "
            "remove it, or set prepare.codec if they are latents"
        )


def distance_name(inception: bool, samples: int) -> str:
    """Return what a Fréchet distance is called: FID only of Inception features of enough samples."""
    return "fid" if inception and samples >= LEAST_FID else "fd"


def read_statistics(file: Path) -> Moments:
    """Return the moments of an .npz file with `mu` (d,) and `sigma` (d, d), as ADM writes them.

    Their count is not known: two, so that the covariance is that of the file.

    Raises:
        UserError: if the file holds something else.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            mean, covariance = (content[name].astype(np.float64) for name in (MEAN, COVARIANCE))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} holds no statistics ({error}); it must be an .npz with {MEAN}, (d,), and {COVARIANCE}, "
            "(d, d)"
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"{file}: {MEAN} has shape {mean.shape} and {COVARIANCE} {covariance.shape}; they must have (d,) "
            "and (d, d)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{file}: {MEAN} or {COVARIANCE} is not finite; make the file again")
    return Moments(2, mean, covariance)
