"""The Prefect server: questions to it, and what its page shows."""
