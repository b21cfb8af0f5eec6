"""Training methods, one file each, found by its name; `fewstep.training.method` is their interface."""

from fewstep import registry

registry.add_plugins(__name__, __path__)
