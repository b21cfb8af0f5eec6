"""Models that are trained as a low-rank adapter over the weights of another, which are frozen and shared."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.lora_settings import LoraSettings
    from fewstep.model import Model

with lazy_imports():
    import torch

    from fewstep import model as models
    from fewstep.networks import lora as networks


def with_lora(model: Model, settings: LoraSettings, *, seed: int, base: str | None = None) -> Model:
    """Return a model over the weights of `model`, which get frozen, of which an adapter is to be trained.

    It starts as `model`. One that is such an adapter already is trained further.

    Args:
        model: Whose network gets the adapter.
        settings: The adapter's.
        seed: Of what is drawn of it.
        base: The digest of the model directory with these weights, if there is one.

    Raises:
        UserError: if it is an adapter of other settings, the network has no such layers, or they leave out
            one without which it could not learn what a second time or a scale of guidance does.
    """
    if (own := model.config.lora) is not None:
        if own != settings:
            raise UserError(
                f"lora: what the training starts from is an adapter already, of rank {own.rank}, alpha "
                f"{own.alpha:g} and targets {own.targets}; set lora to the same, or to null, which trains all"
            )
        return model
    networks.must_learn_what_is_added(model.network, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        device = next(model.parameters()).device
        networks.put_in(model.network, settings)
    config = replace(model.config, lora=settings, lora_base=base)
    return models.Model(config, model.network.to(device), model.conditions.table).train(model.training)


def merged(model: Model) -> Model:
    """Return a model with its adapter, if it is one, added to the weights."""
    return model if model.config.lora is None else _taken_out(model, merge=True)


def without(model: Model) -> Model:
    """Return the model over whose weights an adapter was trained."""
    return _taken_out(model, merge=False)


def _taken_out(model: Model, *, merge: bool) -> Model:
    networks.take_out(model.network, merge=merge)
    config = replace(model.config, lora=None, lora_base=None)
    whole = models.Model(config, model.network.requires_grad_(True), model.conditions.table)
    return whole.train(model.training)


def trainable_copy(model: Model, student: Model) -> Model:
    """Return a copy of `model` to be trained as `student` is: in all weights, or as an adapter over them."""
    settings = student.config.lora
    if settings is None:
        return copy.deepcopy(model).requires_grad_(True)
    shared = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    return with_lora(shared, settings, seed=int(torch.randint(2**62, ())))


def share(model: Model, student: Model) -> Model:
    """Let a model that is not trained have its weights in the memory of a student's frozen ones.

    These are the weights that have the same name and are equal. A student without adapter has none.
    """
    frozen = {
        networks.name_in_file(name): weight
        for name, weight in student.named_parameters()
        if not weight.requires_grad
    }
    for name, weight in list(model.named_parameters()):
        twin = frozen.get(name)
        if twin is not None and twin.shape == weight.shape and torch.equal(twin, weight.to(twin.device)):
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, twin)
    return model
