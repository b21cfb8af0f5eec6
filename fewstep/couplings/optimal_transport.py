"""Optimal transport within a batch: the pairing of least squared distance.

Tong et al. 2023 (arXiv 2302.00482), section 3.2, and Pooladian et al. 2023 (arXiv 2304.14772): paths
of a batch cross less, so the flow learnt from them is straighter. The bias falls as batches grow.
Among classes the noise that a label meets is no longer normal, so models with classes are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fewstep.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OptimalTransport:
    """The exact optimal pairing of each batch, by POT's network simplex. It has no options."""

    suits_labels: ClassVar[bool] = False

    def pair(self, noise: Tensor, data: Tensor) -> Tensor:
        """See Coupling.pair.

        Raises:
            UserError: if POT is not installed.
        """
        import torch

        try:
            import ot
        except ImportError as error:
            raise UserError(
                "the optimal_transport coupling needs POT; install it: pip install 'fewstep[ot]'"
            ) from error
        assert noise.shape == data.shape
        cost = torch.cdist(data.flatten(1).double(), noise.flatten(1).double()).square().cpu().numpy()
        plan = ot.emd([], [], cost, numItermax=10_000_000)  # [] is uniform; the optimum is then a permutation
        order = torch.from_numpy(plan.argmax(1))
        assert len(order.unique()) == len(order), "the transport plan is no permutation"
        return noise[order.to(noise.device)]
