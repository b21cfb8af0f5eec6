"""Architectures, one file each, found by its name.

A file defines a frozen dataclass of the architecture's options whose `build(shape, classes)`
returns the network: `network(x, t, label=None)` maps x (batch, *shape) and t (batch,) to
(batch, *shape). Files import torch only where they build, so that settings can be checked in a
blink; the network itself lives in a file of its own that starts with an underscore.
"""
