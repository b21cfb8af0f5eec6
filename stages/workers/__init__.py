"""Independent pieces of work on several processes, on a Ray cluster, or in a distributed training."""
