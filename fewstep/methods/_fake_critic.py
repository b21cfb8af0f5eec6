"""WithHead: a model with a discriminator head on the features in the middle of its network.

Yin et al. 2024 (arXiv 2405.14867), section 4.3. There the head has convolutions and sees the bottleneck of a
U-Net; here it sees the places of a map, or the tokens of a sequence, one by one, and takes their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import paths
from fewstep.conditions import LABEL
from fewstep.errors import UserError
from fewstep.flow import own_point
from fewstep.model import Model, ModelConfig

WIDTH = 64


class WithHead(Model):
    """A model with the network of another, and a head of its own.

    Raises:
        UserError: if the network does not say where its middle features are, or there are none.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.config, model.network, model.conditions.table)
        self.place = _place_in(model)
        device = next(model.parameters()).device
        with torch.no_grad():
            self.head = Head(self._features(*_example(model.config, device)).shape[-1]).to(device)

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, *, logits: bool = False, **conditions: Any
    ) -> Tensor:
        """Return the prediction, see Model.forward; or the head's `logits`, (n,), higher for real data."""
        if not logits:
            return super().forward(x, t, **conditions)
        of_head: Tensor = self.head(self._features(x, t, conditions))
        return of_head

    def logits_at(self, x: Tensor, t: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """Return the head's logits, (n,), of canonical states x (n, *shape) at t (n,), given conditions."""
        own_x, own_t, _ = own_point(paths.get(self.config.path), x, t)
        logits: Tensor = self(own_x, own_t, logits=True, **conditions)
        return logits

    def _features(self, x: Tensor, t: Tensor, conditions: dict[str, Any]) -> Tensor:
        """Return what the network makes in its middle, (n, places, features)."""
        with _outputs(self.network.get_submodule(self.place)) as found:
            super().forward(x, t, **conditions)
        features = found[-1]
        if features.dim() == 4:
            return features.flatten(2).mT
        return features if features.dim() == 3 else features[:, None]


class Head(nn.Module):
    """Two layers at each place, and one of their mean."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.places = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()
        )
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return one number for the features (n, places, features) of each sample, (n,)."""
        logits: Tensor = self.last(self.places(features).mean(dim=1))
        return logits[:, 0]


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module returns; of one that returns several, the last, which are those of the sample."""
    found: list[Tensor] = []

    def keep(module: nn.Module, given: Any, made: Any) -> None:
        found.append(made if isinstance(made, Tensor) else made[-1])

    handle = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _place_in(model: Model) -> str:
    """Return the module of a model's network whose output are its middle features.

    Raises:
        UserError: if the network does not say, or has no such module.
    """
    place = getattr(model.network, "features_at", None)
    if isinstance(place, str) and place in dict(model.network.named_modules()):
        return place
    architecture = model.config.architecture
    name = architecture.get("network", architecture["name"])
    told = (
        "does not say where they are" if place is None else f"says that they are at {place!r}, which is none"
    )
    raise UserError(
        f"critic fake takes features of the teacher's network, and {name} {told}; give its class an "
        "attribute features_at, the name of the module whose output they are, or set critic to own"
    )


def _example(config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return one sample, its time, and conditions, as a network takes them: zeros."""
    zeros = partial(torch.zeros, device=device)
    conditions = {name: zeros(1, *shape) for name, shape in config.conditions.items()}
    if config.classes:
        conditions[LABEL] = zeros(1, dtype=torch.int64)
    return zeros(1, *config.shape), torch.full((1,), 0.5, device=device), conditions
