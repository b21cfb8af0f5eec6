"""Networks of the user's own code: imported from the working directory, and from nowhere else.

A model directory may come from a stranger. Its config.json can name a class here, so only a torch module
of a file that already lies in the checkout is ever called.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from fewstep import registry
from fewstep.errors import UserError
from fewstep.foreign.adapter import Adapter


def build(network: str, options: dict[str, Any], adapter: str, classes: int) -> Adapter:
    """Return a network named as module:Class, in its adapter.

    Raises:
        UserError: see fewstep.models.imported.Imported.build.
    """
    kind = class_of(network)
    try:
        made = kind(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"network {network}: {error}") from error
    return registry.find("fewstep.foreign.adapters", adapter)(made, classes)


def class_of(network: str) -> type[nn.Module]:
    """Return the class that module:Class names.

    Raises:
        UserError: if there is no such file below the working directory, or no such torch module in it.
    """
    module, _, name = network.partition(":")
    here = Path.cwd()
    file = here.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise UserError(f"network {network}: there is no {file.relative_to(here)} in {here}; put it there")
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    imported = importlib.import_module(module)
    if Path(imported.__file__ or "").resolve() != file.resolve():
        raise UserError(f"network {network}: {module} is another module, {imported.__file__}; rename yours")
    kind = getattr(imported, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"network {network}: {file.relative_to(here)} has no torch module {name!r}")
    return kind
