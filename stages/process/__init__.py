"""The process a stage runs in: interpreter, parent, device, progress."""
