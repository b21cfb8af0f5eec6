"""Formats of folders that hold a model of another library, one file each, found by its name.

A file defines a frozen dataclass of the format's options whose `look(folder)` returns the
fewstep.foreign.found.Found. Files import torch lazily, so that settings are checked without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from fewstep import registry

if TYPE_CHECKING:
    from fewstep.foreign.found import Found

registry.add_plugins(__name__, __path__)


class Format(Protocol):
    """What a file of this package defines."""

    marks: ClassVar[tuple[str, ...]]
    """Names of weights, any of which tells that a folder without a config is in the format."""
    of_diffusers: ClassVar[bool]
    """Whether schedulers of diffusers may take the steps of its models; a format without it says no."""

    def look(self, folder: Path) -> Found:
        """Return what lies in the folder.

        Raises:
            UserError: if it holds no such model, or one that fewstep can't take.
        """
