"""Sets of samples that a model makes of noise: pairs and trajectories."""
