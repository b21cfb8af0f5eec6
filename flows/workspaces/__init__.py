"""Folders that a flow works in: the checkout, variants of it, clones for workers."""
