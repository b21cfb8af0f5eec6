"""Architectures, one file each, found by its name: a frozen dataclass of an architecture's options.

Files import torch lazily, so that settings are checked without it; the network itself is a module of
fewstep.networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fewstep import registry

if TYPE_CHECKING:
    from torch import nn

    from fewstep.conditions import Shapes

registry.add_plugins(__name__, __path__)


class Architecture(Protocol):
    """What a file of this package defines.

    A `build` may leave out keywords of what its networks can't be given: models that need it are refused.
    Where it takes `split_after`, the dataclass has a `check_split(split_after)`, which raises a UserError for
    a number that can't be.
    """

    def build(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        conditions: Shapes,
        second_time: bool,
        slow_times: bool,
        guidance_input: bool,
        split_after: int | None,
        time_scale: float,
    ) -> nn.Module:
        """Return `network(x, t, label=None)`, which maps x (batch, *shape) and t (batch,) to (batch, *shape).

        Its attribute `features_at` may name the module whose output are the features in its middle. Without
        the keywords it is given nothing else.

        Args:
            shape: Of one sample.
            classes: Labels are from 0 to this number, which stands for none; 0 if the model has no classes.
            conditions: What it is given by name, (batch, *shape) each; see fewstep.conditions.
            second_time: Whether it can be given `until` (batch,), and answers for the step from t until then.
            slow_times: Whether it may be differentiated by its times; see fewstep.timing.
            guidance_input: Whether it is given the scale of `guidance`, (batch,); see
                fewstep.guidance_input.
            split_after: How many of its first blocks see t alone, and the others `until`; None for neither.
            time_scale: What its times are multiplied by.
        """
