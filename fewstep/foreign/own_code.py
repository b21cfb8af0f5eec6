"""Networks of the user's own code: imported from the checkout that fewstep works in, and from nowhere else.

A model directory may come from a stranger, whose config.json can name any file, also one that came with it.
So a file is imported only if fewstep runs in a checkout, and only from a folder of it that holds no weights:
data/ and artifacts/ do, and so does a folder where somebody unpacked a model.
"""

import importlib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from fewstep import registry
from fewstep.checkouts import checkout_of
from fewstep.errors import UserError
from fewstep.foreign.adapter import Adapter


def build(
    network: str,
    options: dict[str, Any],
    adapter: str,
    classes: int,
    named: Collection[str],
    **timing: bool,
) -> Adapter:
    """Return a network named as module:Class, in its adapter, which gives it all that is `named`.

    Raises:
        UserError: see fewstep.models.imported.Imported.build.
    """
    kind = class_of(network)
    try:
        made = kind(**options, **{name: asked for name, asked in timing.items() if asked})
    except (TypeError, ValueError) as error:
        raise UserError(f"network {network}: {error}") from error
    found: type[Adapter] = registry.find("fewstep.foreign.adapters", adapter)
    named = [*named, *(["until"] if timing["second_time"] else [])]
    if named and not found.takes_any:
        raise UserError(
            f"network {network}: the adapter {adapter} gives a network no {', '.join(named)}; take x_t or t_x"
        )
    return found(made, classes, **timing)


def class_of(network: str) -> type[nn.Module]:
    """Return the class that module:Class names.

    Raises:
        UserError: if the working directory is no checkout, there is no such file in it, the file may have
            come with a model, or it has no such torch module.
    """
    module, _, name = network.partition(":")
    here = Path.cwd()
    file = here.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise UserError(f"network {network}: there is no {file.relative_to(here)} in {here}; put it there")
    refuse_a_strangers(network, here, here / module.split(".")[0])
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    imported = importlib.import_module(module)
    if Path(imported.__file__ or "").resolve() != file.resolve():
        raise UserError(f"network {network}: {module} is another module, {imported.__file__}; rename yours")
    kind = getattr(imported, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"network {network}: {file.relative_to(here)} has no torch module {name!r}")
    return kind


def refuse_a_strangers(network: str, here: Path, top: Path) -> None:
    """Refuse code that may have come with a model.

    Args:
        network: As it was named.
        here: The working directory.
        top: What the first part of the module's name is in there: a folder, or no folder if it has one part.

    Raises:
        UserError: if the working directory is no checkout, or the folder holds weights.
    """
    if checkout_of(here) != here.resolve():
        raise UserError(
            f"network {network}: code is imported only if fewstep runs in its checkout, the folder with "
            f"dvc.yaml; {here} is none"
        )
    if weights := next(top.rglob("*.safetensors"), None):
        raise UserError(
            f"network {network}: {top.name}/ holds weights, such as {weights.relative_to(here)}, so its code "
            "may have come with a model and is not imported; if it is yours, put it where there are none"
        )
