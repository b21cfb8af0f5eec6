"""Backends: networks of the user's files in whose features images are measured, one file a kind of file.

A file defines a frozen dataclass of options; `paths()` returns the files or folders that it reads, by the
name of the option, and `load(places, device)` the fewstep.metrics.backend.Backend. Files import torch lazily,
so that settings are checked without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fewstep import registry

if TYPE_CHECKING:
    from fewstep.metrics.backend import Backend

registry.add_plugins(__name__, __path__)


class Options(Protocol):
    """What a file of this package defines."""

    def paths(self) -> dict[str, str]:
        """Return the files and folders that the options name, by the name of the option."""

    def load(self, places: Mapping[str, Path], device: str) -> Backend:
        """Return the network, read from where these lie.

        Raises:
            UserError: if it can't be read, or is not the one that is meant.
        """
