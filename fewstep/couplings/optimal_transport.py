"""Optimal transport within a batch: the pairing of least squared distance.

Tong et al. 2023 (arXiv 2302.00482), section 3.2, and Pooladian et al. 2023 (arXiv 2304.14772): paths
of a batch cross less, so the flow learnt from them is straighter. The bias falls as batches grow.
Among classes the noise that a label meets is no longer normal, so models with classes are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from etils.epy import lazy_imports

from fewstep.extras import brought_by

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

with lazy_imports(error_callback=brought_by("ot", what="the optimal_transport coupling", library="POT")):
    import ot


@dataclass(frozen=True)
class OptimalTransport:
    """The exact optimal pairing of each batch, by POT's network simplex. It has no options."""

    suits_labels: ClassVar[bool] = False

    def pair(self, noise: Tensor, data: Tensor) -> Tensor:
        """See Coupling.pair.

        Raises:
            UserError: if POT is not installed.
        """
        assert noise.shape == data.shape
        cost = torch.cdist(data.flatten(1).double(), noise.flatten(1).double()).square().cpu().numpy()
        plan = ot.emd([], [], cost, numItermax=10_000_000)  # [] is uniform; the optimum is then a permutation
        order = torch.from_numpy(plan.argmax(1))
        assert len(order.unique()) == len(order), "the transport plan is no permutation"
        return noise[order.to(noise.device)]
