"""Guidance that a method teaches: one scale, which the student then shows unasked, or a range.

Of a range the scale of each sample is drawn, and given to the student's network as an input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Union

from fewstep import guidance_ranges, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch

Guidance = float | tuple[float, ...]
"""One scale, or a range: see fewstep.guidance_ranges."""
Drawn = Union[float, "Tensor"]
"""The one scale, or that of each sample, (n,)."""


def checked(guidance: Guidance) -> Guidance:
    """Return an option `guidance` in its one form.

    Raises:
        UserError: if it is no finite number, and no range.
    """
    if isinstance(guidance, tuple | list):
        return guidance_ranges.checked(guidance)
    if not math.isfinite(guidance):
        raise UserError(f"guidance must be a finite number, got {guidance}; 1 is none")
    return guidance


def shown(guidance: Guidance) -> str:
    """Return it as it is written in params.yaml."""
    return guidance_ranges.shown(guidance) if isinstance(guidance, tuple) else str(guidance)


def taught(guidance: Guidance) -> dict[str, Any]:
    """Return what the ModelConfig of a student says of the guidance that it was taught."""
    if isinstance(guidance, tuple):
        return {"baked_guidance": 1.0, "guidance_range": guidance}
    return {"baked_guidance": guidance}


def must_take(student: Model, guidance: Guidance) -> None:
    """Refuse a student whose network is not given the scales that it is to learn.

    Raises:
        UserError: if these are a range, and its network takes none as an input.
    """
    if isinstance(guidance, tuple) and not student.config.guidance_input:
        raise UserError(
            "this method trains a network with guidance as an input; "
            "fewstep.guidance_input.with_guidance_input gives the student one"
        )


def must_show(teacher: Model, guidance: Guidance) -> None:
    """Refuse a teacher that can't show the guidance that it is to teach.

    Raises:
        UserError: see ModelConfig.guidance_shown; or if it is a range, and the teacher shows one unasked.
    """
    as_flow(teacher, guidance=guidance[-1] if isinstance(guidance, tuple) else guidance)
    if isinstance(guidance, tuple) and (baked := teacher.config.baked_guidance) != 1:
        raise UserError(
            f"the teacher shows guidance {baked:g} unasked, and a range starts from 1; take a teacher that "
            "learned from data"
        )


def uniform(guidance: Guidance, keys: Tensor, data: Tensor) -> Drawn:
    """Return the one scale, or for each sample one of the range, (n,), all as likely, in the type of data."""
    if not isinstance(guidance, tuple):
        return guidance
    low, high = guidance
    return low + (high - low) * randomness.uniforms("train.guidance", keys).to(data)


def log_uniform(guidance: Guidance, keys: Tensor, data: Tensor) -> Drawn:
    """Return the same, but with all logarithms as likely."""
    if not isinstance(guidance, tuple):
        return guidance
    low, high = guidance
    return low * (high / low) ** randomness.uniforms("train.guidance", keys).to(data)


def told(scale: Drawn, *, none: Tensor | None = None) -> Drawn:
    """Return what the student is asked for: one scale is taught unasked, those of a range are inputs.

    Samples of which `none` says so, bool (n,), are to show no guidance.
    """
    if not isinstance(scale, torch.Tensor):
        return 1.0
    return scale if none is None else torch.where(none, 1.0, scale)
