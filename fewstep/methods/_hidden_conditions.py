"""Hidden conditions: what is dropped of a share of the samples, so that guidance has something to leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep import paths, randomness
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model
    from fewstep.training.method import Batch

with lazy_imports():
    import torch


def check_dropout(share: float) -> None:
    """Check an option `label_dropout`.

    Raises:
        UserError: if it is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"label_dropout is a share from 0 to 1, got {share}")


def check_droppable(share: float, labels: bool) -> None:
    """Check that there is something to drop.

    Raises:
        UserError: if the model has no conditions, but a share of them is to be dropped.
    """
    if share and not labels:
        raise UserError(f"label_dropout {share} needs a model with classes, or other conditions; set it to 0")


def hidden_of(share: float, keys: Tensor) -> Tensor:
    """Return whose conditions are dropped, bool (n,)."""
    return randomness.uniforms("train.label", keys) < share


def hide(student: Model, conditions: Batch, hidden: Tensor) -> Batch:
    """Return conditions (n, ...) with the null ones in place of those that are `hidden`, bool (n,)."""
    return {
        name: torch.where(paths.like(hidden.to(null.device), null), null, conditions[name])
        for name, null in student.null(conditions).items()
    }
