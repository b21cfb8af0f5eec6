"""Processes, git and messages."""
