"""A preconditioned network of EDM: network(x, sigma, class_labels), with classes one-hot, zeros for none."""

from torch import Tensor
from torch.nn import functional

from fewstep.foreign.adapter import Adapter


class Edm(Adapter):
    """Karras et al. 2022 (arXiv 2206.00364), appendix F: the null condition is a row of zeros."""

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call; t is sigma."""
        label = self.named(label, x)
        if label is None:
            return self.network(x, t)
        return self.network(x, t, functional.one_hot(label, self.classes + 1)[:, :-1].to(x.dtype))
