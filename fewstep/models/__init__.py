"""Architectures, one file each, found by its name.

A file defines a frozen dataclass of the architecture's options whose `build(shape, classes)`
returns the network: `network(x, t, label=None)` maps x (batch, *shape) and t (batch,) to
(batch, *shape). One whose `build` also takes `second_time=True` then returns a network that can be given
`until` (batch,) beside them: its output at x and t is that of the step from t until then.
Files import torch lazily, so that settings are checked without it; the network itself is a module of
fewstep.networks.
"""

from fewstep import registry

registry.add_plugins(__name__, __path__)
