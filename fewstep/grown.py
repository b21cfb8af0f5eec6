"""Networks that take more than a trained one, whose weights they start with beside layers of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.model import Model, ModelConfig

with lazy_imports():
    from fewstep import model as models


def drawn(model: Model, config: ModelConfig, what: str, *, seed: int) -> Model:
    """Return a model of another config on the device of `model`, its weights drawn by the seed.

    Args:
        model: The trained one.
        config: That of `model`, of whose network more is asked.
        what: What that is, for messages.
        seed: Of the weights.

    Raises:
        UserError: if its architecture has no such network, or it is an adapter.
    """
    if model.config.lora is not None:
        raise UserError(
            f"lora: a network with {what} would be another base than that of the adapter "
            "which the training starts from; start from its base, or set lora to null, which trains all"
        )
    return models.build(config, seed=seed, table=model.conditions.table).to(next(model.parameters()).device)


def filled(built: Model, model: Model) -> Model:
    """Give a model the weights that another has, too."""
    built.network.load_state_dict({**built.network.state_dict(), **model.network.state_dict()})
    return built.train(model.training)
