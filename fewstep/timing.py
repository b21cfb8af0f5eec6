"""Give the network of a trained model a second time, or times that it can be differentiated by."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from fewstep import flow, grown, paths
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.network_times import NETWORK_TIMES, OF_A_PATH

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch

    from fewstep.networks import embedding

FITTED = 4096
"""Times at which slow features are fitted to others."""


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
    if split and model.config.time not in OF_A_PATH:
        raise UserError(
            "split_after is for networks that are given the time of their path, and this one is given "
            f"{model.config.time_scale:g} {model.config.time}: set it to null"
        )
    return grown.filled(_drawn(model, "second_time", seed=seed, **split), model)


def with_slow_times(model: Model, *, seed: int) -> Model:
    """Return a model whose network computes with slower features of the time, fitted to those of `model`.

    Fast features make derivatives by the time that have little to do with the flow's. The slower ones
    reproduce the embedding of `model` but for what in it is faster; Zhang et al. 2025 (arXiv 2511.23342).
    The features of some networks, such as adm and dit at times from 0 to 1 or at logarithms of noise levels,
    are slow anyway: these compute as they did. Other features of logarithms of noise levels are slowed until,
    in the middle of canonical times, they turn as fast as those of a time. They are fitted at all times of
    the path.

    Raises:
        UserError: if its architecture has no such network, it has fast features of a noise level itself, not
            of its logarithm, or is an adapter.
    """
    slower = _drawn(model, "slow_times", seed=seed)
    parts = [part for part in slower.network.modules() if isinstance(part, embedding.Timed) and part.slowed]
    if model.config.time == "sigma" and not all(part.of_logarithms for part in parts):
        raise UserError(
            "a method that differentiates by the time is for networks that are given it, or the logarithm of "
            f"a noise level; this one is given {model.config.time_scale:g} sigma: take another"
        )
    fresh = [copy.deepcopy(part.time_layers()) for part in parts]
    times = _times_of(model).to(next(model.parameters()).device)
    slower = grown.filled(slower, model)
    for part, layers in zip(parts, fresh, strict=True):
        part.slow_down(layers, times)
    return slower


def _drawn(model: Model, what: str, *, seed: int, **more: int) -> Model:
    """Return a model of the same architecture with one feature more, its weights drawn by the seed.

    `more` says of what kind it is.
    """
    config = replace(model.config, architecture={**model.config.architecture, what: True, **more})
    return grown.drawn(model, config, what.replace("_", " "), seed=seed)


def _times_of(model: Model) -> Tensor:
    """Return network times (FITTED,) of equally spaced ones of the path."""
    config, t = model.config, (torch.arange(FITTED) + 0.5) / FITTED
    if config.time not in OF_A_PATH:
        path = paths.get(config.path)
        ends = torch.tensor(flow.usable_times(config.path, config.prediction), dtype=torch.float64)
        start, end = path.time_of(ends)
        t = NETWORK_TIMES[config.time](path, start + (end - start) * t).float()
    return config.time_scale * t
