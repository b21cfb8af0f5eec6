"""Give the network of a trained model the scale of classifier-free guidance as an input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fewstep import grown
from fewstep.errors import UserError

if TYPE_CHECKING:
    from fewstep.model import Model


def with_guidance_input(model: Model, *, seed: int) -> Model:
    """Return a model with the weights of `model` whose network takes the scale of guidance.

    It starts as `model` at any scale. Only its new layers are drawn, and depend on `seed` alone.

    Raises:
        UserError: if its architecture has no such network, or it is an adapter.
    """
    config = replace(model.config, guidance_input=True, guidance_channels=None)
    built = grown.drawn(model, config, "guidance as an input", seed=seed)
    if built.network.state_dict().keys() == model.network.state_dict().keys():
        name = model.config.architecture["name"]
        raise UserError(
            f"model {name}: its network gets no layer for guidance as an input; train a student of another "
            "architecture, such as unet, or with one scale"
        )
    return grown.filled(built, model)
