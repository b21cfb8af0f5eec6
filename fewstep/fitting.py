"""Networks that are only sampled, and are given fewer samples at a time where memory does not suffice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.errors import first_line
from fewstep.training.memory import OutOfMemoryError, has_no_memory

if TYPE_CHECKING:
    from collections.abc import Callable


class Fitting(nn.Module):
    """A network whose calls are cut in half, and in half again, when memory runs out, now and from then on.

    What it makes of a sample then differs by rounding alone.

    Attributes:
        rows: how many samples fit in a call, once that is fewer than it was asked for.

    Args:
        network: makes each row of its output, (batch, ...), of that row of its inputs.
        say: told when a call is cut.
    """

    def __init__(self, network: nn.Module, say: Callable[[str], None]) -> None:
        super().__init__()
        self.network, self.say = network, say
        self.rows: int | None = None

    def forward(self, x: Tensor, *inputs: Any, **conditions: Any) -> Tensor:
        """Return what the network makes of states x, (batch, *shape), and all else that it is given.

        Raises:
            OutOfMemoryError: if a single sample does not fit.
        """
        while True:
            rows = min(self.rows or len(x), len(x))
            try:
                return self._in_parts(rows, x, inputs, conditions)
            except (MemoryError, RuntimeError) as error:
                if not has_no_memory(error):
                    raise
                said = first_line(error)
            self._halve(rows, said)  # after the error, which holds on to what was computed before it
            if x.is_cuda:
                torch.cuda.empty_cache()

    def _in_parts(self, rows: int, x: Tensor, inputs: tuple[Any, ...], conditions: dict[str, Any]) -> Tensor:
        """Call the network with so many samples at a time."""
        if rows == len(x):
            return self.network(x, *inputs, **conditions)

        def part(value: Any, start: int) -> Any:
            cut = isinstance(value, Tensor) and value.dim() and len(value) == len(x)
            return value[start : start + rows] if cut else value

        made = [
            self.network(
                part(x, start),
                *(part(value, start) for value in inputs),
                **{name: part(value, start) for name, value in conditions.items()},
            )
            for start in range(0, len(x), rows)
        ]
        return torch.cat(made)

    def _halve(self, rows: int, said: str) -> None:
        """Have fewer samples than `rows` in a call from now on."""
        if rows == 1:
            raise OutOfMemoryError(
                f"out of memory ({said}) with one sample in a call of a network; take precision: bfloat16, "
                "or a device with more memory"
            )
        self.rows = rows // 2
        self.say(
            f"out of memory ({said}) with {rows} samples in a call of a network: from now on it is given "
            f"{self.rows} at a time, which changes results by rounding. With batch: {self.rows} in the "
            "settings they are the same on all machines"
        )
