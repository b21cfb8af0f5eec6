"""Exchange: gradients are averaged over all processes while the backward pass still computes others."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from fewstep import distributed


class Exchange:
    """Averages the gradients of some weights in pieces, each as soon as its last gradient is there.

    A backward pass makes the last gradients first, so pieces are cut from the end. All processes send them in
    one order, whichever is ready first.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.pieces = list(distributed.buckets([*reversed(parameters)]))
        self.on = False
        for number, piece in enumerate(self.pieces):
            for parameter in piece:
                parameter.register_post_accumulate_grad_hook(partial(self._made, number))

    def begin(self) -> None:
        """Exchange what the next backward pass makes, the last of an update."""
        self.on, self.sent = True, 0
        self.missing = [len(piece) for piece in self.pieces]
        self._under_way: list[tuple[dist.Work, Tensor, list[Tensor]]] = []

    def end(self) -> None:
        """Wait until all gradients are the means of all processes."""
        while self.sent < len(self.pieces):  # weights that the loss does not depend on have no gradient
            self._send()
        self._take(every=True)
        self.on = False

    def _made(self, number: int, parameter: Tensor) -> None:
        """Send the pieces whose gradients are all there, now that one more is."""
        if not self.on:
            return
        self.missing[number] -= 1
        while self.sent < len(self.pieces) and not self.missing[self.sent]:
            self._send()

    def _send(self) -> None:
        """Begin to exchange the next piece."""
        self._take(every=False)
        gradients = [weight.grad for weight in self.pieces[self.sent] if weight.grad is not None]
        self.sent += 1
        if gradients:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            work = dist.all_reduce(flat, async_op=True)
            assert work is not None
            self._under_way.append((work, flat, gradients))

    def _take(self, *, every: bool) -> None:
        """Take what has come back, or wait for all of it; its memory is then free."""
        while self._under_way and (every or self._under_way[0][0].is_completed()):
            work, flat, gradients = self._under_way.pop(0)
            work.wait()
            flat /= distributed.ranks()
            distributed.scatter(flat, gradients)
