"""Adapters, one file a call signature, found by its name.

The adapter of a network class of diffusers is called as the class, in lower case: UNet2DModel has
unet2dmodel.py. Each file defines a class that extends fewstep.foreign.adapter.Adapter.
"""

from fewstep import registry

registry.add_plugins(__name__, __path__)
