"""fewstep: turn a flow or diffusion model into one that samples in 1 to 8 network calls."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.searching.call import search as search

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `search` when it is asked for: it needs torch, which settings and flows do without."""
    if name == "search":
        from fewstep.searching.call import search

        return search
    raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
