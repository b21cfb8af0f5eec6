"""Training methods, one file each, found by its name; `fewstep.methods._method` is their interface."""
