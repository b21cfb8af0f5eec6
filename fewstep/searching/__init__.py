"""What searches share, and `search`, which runs one without a pipeline."""
