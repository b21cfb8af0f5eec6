"""Tracking: events of runs in an outbox on disk, and their delivery to MLflow."""
