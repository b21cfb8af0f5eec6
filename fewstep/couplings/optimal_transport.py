"""Optimal transport within a batch: the pairing of least squared distance.

Tong et al. 2023 (arXiv 2302.00482), section 3.2, and Pooladian et al. 2023 (arXiv 2304.14772): paths
of a batch cross less, so the flow learnt from them is straighter. The bias falls as batches grow.
Among classes the noise that a label meets is no longer normal, so models with classes are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fewstep.lazy import brought_by, lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

with lazy_imports(
    error_callback=brought_by("metrics", what="the optimal_transport coupling", library="scipy")
):
    from scipy import optimize


@dataclass(frozen=True)
class OptimalTransport:
    """The exact optimal pairing of each batch, by scipy's assignment. It has no options."""

    suits_labels: ClassVar[bool] = False

    def pair(self, noise: Tensor, data: Tensor) -> Tensor:
        """See Coupling.pair.

        Raises:
            UserError: if scipy is not installed.
        """
        assert noise.shape == data.shape
        cost = torch.cdist(data.flatten(1).double(), noise.flatten(1).double()).square().cpu().numpy()
        _, order = optimize.linear_sum_assignment(cost)
        return noise[torch.from_numpy(order).to(noise.device)]
