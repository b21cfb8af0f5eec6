"""Training methods, one file each, found by its name; `fewstep.training.method` is their interface."""
