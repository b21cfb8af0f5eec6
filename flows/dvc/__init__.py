"""All that is asked of DVC."""
