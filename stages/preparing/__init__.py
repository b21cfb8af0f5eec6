"""What the prepare stage makes beside the shards."""
