"""The device that networks run on."""

import os

from fewstep.errors import UserError, first_line
from fewstep.lazy import lazy_imports

with lazy_imports():
    import torch


def device() -> str:
    """Return where networks run: FEWSTEP_DEVICE, or a GPU if there is one, or the CPU.

    Raises:
        UserError: if there is no such device here.
    """
    name = os.environ.get("FEWSTEP_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"FEWSTEP_DEVICE {name!r} is no device of this machine ({first_line(error)})"
        ) from None
    return name
