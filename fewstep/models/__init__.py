"""Architectures, one file each, found by its name.

A file defines a frozen dataclass of the architecture's options whose `build(shape, classes)`
returns the network: `network(x, t, label=None)` maps x (batch, *shape) and t (batch,) to
(batch, *shape). A `build` may also take `second_time=True`, and then returns a network that can be given
`until` (batch,) beside them: its output at x and t is that of the step from t until then; with
`split_after` as well, from whose blocks so many first ones see t alone, and the others until, where the
dataclass has a `check_split(split_after)`, which refuses a number that can't be; and
`slow_times=True` for one that may be differentiated by its times; if these are multiplied, it is also told
by what, as `time_scale`. See fewstep.timing. With `guidance_input=True` the network is also given the scale
of `guidance`, (batch,); see fewstep.guidance_input. With `conditions={name: shape}` the network is also
given these by name, (batch, *shape); see fewstep.conditions. Its attribute `features_at` may name the module
whose output are the features in its middle.
Files import torch lazily, so that settings are checked without it; the network itself is a module of
fewstep.networks.
"""

from fewstep import registry

registry.add_plugins(__name__, __path__)
