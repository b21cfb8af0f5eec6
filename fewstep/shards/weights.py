"""Weights: the field "weight" of a set, by which training multiplies the loss of each sample."""

from torch import Tensor

from fewstep.errors import UserError


def check_weights(stored: dict[str, Tensor], first: int) -> None:
    """Refuse weights that aren't one number from 0 a sample; sample number `first` is the first.

    Raises:
        UserError: naming the sample.
    """
    if "weight" not in stored:
        return
    weights = stored["weight"]
    if weights.dim() != 1:
        raise UserError(f"field 'weight' is one number a sample, got shape {list(weights.shape[1:])}")
    if (weights < 0).any():
        bad = int((weights < 0).nonzero()[0])
        raise UserError(
            f"field 'weight' of sample {first + bad} is {float(weights[bad])}, but a loss can only be "
            "multiplied by numbers from 0; write 0 for a sample that must not count"
        )
