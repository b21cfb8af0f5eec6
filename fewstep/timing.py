"""Give the network of a trained model a second time, or times that it can be differentiated by."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from fewstep import grown
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.network_times import OF_A_PATH

if TYPE_CHECKING:
    from fewstep.model import Model

with lazy_imports():
    from fewstep.networks import embedding


def with_second_time(model: Model, *, seed: int, split_after: int | None = None) -> Model:
    """Return a model with the weights of `model` whose network takes a second time.

    It starts as `model` at any second time. Only its new layers are drawn, and depend on `seed` alone.

    With `split_after` it has no new layers: so many first blocks are given the first time alone, all after
    them the second, as in decoupled MeanFlow (Lee et al. 2025, arXiv 2510.24474). It starts as `model` where
    both times are equal.

    Raises:
        UserError: if its architecture has no such network, or not so many blocks, it is to be split and is
            given a noise level instead of a time, or is an adapter.
    """
    split = {} if split_after is None else {"split_after": split_after}
    if split:
        _must_be_given_time(model, "split_after", "set it to null")
    return grown.filled(_drawn(model, "second_time", seed=seed, **split), model)


def with_slow_times(model: Model, *, seed: int) -> Model:
    """Return a model whose network computes with slower features of the time, fitted to those of `model`.

    Fast features make derivatives by the time that have little to do with the flow's. The slower ones
    reproduce the embedding of `model` but for what in it is faster; Zhang et al. 2025 (arXiv 2511.23342).
    The features of some networks, such as adm and dit at times from 0 to 1 or at logarithms of noise levels,
    are slow anyway: these compute as they did.

    Raises:
        UserError: if its architecture has no such network, it has fast features of a noise level instead of a
            time, or is an adapter.
    """
    slower = _drawn(model, "slow_times", seed=seed)
    parts = [part for part in slower.network.modules() if isinstance(part, embedding.Timed) and part.slowed]
    if parts:
        _must_be_given_time(model, "a method that differentiates by the time", "take another")
    fresh = [copy.deepcopy(part.time_layers()) for part in parts]
    slower = grown.filled(slower, model)
    for part, layers in zip(parts, fresh, strict=True):
        part.slow_down(layers, model.config.time_scale)
    return slower


def _drawn(model: Model, what: str, *, seed: int, **more: int) -> Model:
    """Return a model of the same architecture with one feature more, its weights drawn by the seed.

    `more` says of what kind it is.
    """
    config = replace(model.config, architecture={**model.config.architecture, what: True, **more})
    return grown.drawn(model, config, what.replace("_", " "), seed=seed)


def _must_be_given_time(model: Model, what: str, remedy: str) -> None:
    time, scale = model.config.time, model.config.time_scale
    if time not in OF_A_PATH:
        raise UserError(
            f"{what} is for networks that are given the time of their path, and this one is given {scale:g} "
            f"{time}: {remedy}"
        )
