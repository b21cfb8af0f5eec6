"""Give the network of a trained model a second time, or times that it can be differentiated by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep.errors import UserError

if TYPE_CHECKING:
    from fewstep.model import Model

with lazy_imports():
    from fewstep import model as models
    from fewstep.networks import embedding


def with_second_time(model: Model, *, seed: int) -> Model:
    """Return a model with the weights of `model` whose network takes a second time.

    It starts as `model` at any second time. Only its new layers are drawn, and depend on `seed` alone.

    Raises:
        UserError: if its architecture has no such network, it is given times in another unit than its path's,
            or is an adapter.
    """
    return _rebuilt(model, "second_time", seed=seed)


def with_slow_times(model: Model, *, seed: int) -> Model:
    """Return a model whose network computes with slower features of the time, fitted to those of `model`.

    Fast features make derivatives by the time that have little to do with the flow's. The slower ones
    reproduce the embedding of `model` but for what in it is faster; Zhang et al. 2025 (arXiv 2511.23342).
    The features of some networks, such as adm and dit, are slow anyway: these compute as they did.

    Raises:
        UserError: if its architecture has no such network, it is given times in another unit than its path's,
            or is an adapter.
    """
    slower = _rebuilt(model, "slow_times", drawn="condition.time.", seed=seed)
    if isinstance(condition := getattr(slower.network, "condition", None), embedding.Condition):
        condition.fit_times(model.network.condition)  # type: ignore[arg-type]
    return slower


def _rebuilt(model: Model, what: str, *, seed: int, drawn: str | None = None) -> Model:
    """Return a model of the same architecture with one feature more, and the weights that both have.

    Those whose names start with `drawn` are drawn by the seed, as is what only the new one has.
    """
    time, scale = model.config.time, model.config.time_scale
    if time not in ("t", "1-t") or scale != 1:
        given = f"{scale:g} {time}" if time not in ("t", "1-t") else f"times from 0 to {scale:g}"
        raise UserError(
            f"{what.replace('_', ' ')} is for networks that are given times from 0 to 1; "
            f"this one is given {given}"
        )
    if model.config.lora is not None:
        raise UserError(
            f"lora: a network with {what.replace('_', ' ')} would be another base than that of the adapter "
            "which the training starts from; start from its base, or set lora to null, which trains all"
        )
    config = replace(model.config, architecture={**model.config.architecture, what: True})
    built = models.build(config, seed=seed, table=model.conditions.table).to(next(model.parameters()).device)
    known = model.network.state_dict()
    taken = {name: known[name] for name in known if drawn is None or not name.startswith(drawn)}
    built.network.load_state_dict({**built.network.state_dict(), **taken})
    return built.train(model.training)
