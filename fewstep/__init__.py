"""fewstep: turn a flow or diffusion model into one that samples in 1 to 8 network calls."""

__version__ = "0.1.0"
