"""How a stage runs, from its command line to its published result."""
