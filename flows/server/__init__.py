"""What is asked of the Prefect server, and what is shown there."""
