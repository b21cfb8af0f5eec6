"""What a stage reads and writes: its plan, its scratch folder, and the manifest of its result."""
