"""The training loop, and the interface of the methods that it runs."""
