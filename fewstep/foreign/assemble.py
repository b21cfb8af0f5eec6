"""A model from what was found in a folder: its config declared whole, its weights copied in."""

from typing import Any

from fewstep.conditions import NONE, Shapes, Table
from fewstep.errors import UserError
from fewstep.foreign.adapter import Adapter
from fewstep.foreign.found import DECLARATION, Found
from fewstep.foreign.weights import fill
from fewstep.model import Model, ModelConfig, build


def config_of(
    found: Found,
    shape: tuple[int, ...],
    declared: dict[str, Any],
    *,
    classes: int | None = None,
    conditions: Shapes = NONE,
) -> ModelConfig:
    """Return the config of the model that was found.

    Args:
        found: What a format saw.
        shape: Of the samples it is to make.
        declared: What a user says of DECLARATION, by name; it goes before what the folder says. A time
            that the folder counts goes with the path, so a user who says either says the time too.
        classes: How many classes it has. None: all rows of its table of labels, but for a null condition.
        conditions: Those of the samples, by name and shape, of which it takes what it can.

    Raises:
        UserError: if nobody says what is needed, or the samples, classes or conditions are not those of the
            network.
    """
    said = found.declared | declared
    said.setdefault("time_scale", 1.0)
    if missing := [name for name in DECLARATION if name not in said]:
        raise UserError(
            f"the folder does not say the {' and the '.join(missing)} of the network; "
            f"set {', '.join(missing)}"
        )
    if tuple(shape) != (own := found.described.shape(shape)):
        raise UserError(
            f"the network makes samples of shape {own}, the data has {tuple(shape)}; prepare data of the "
            "network's shape"
        )
    if classes is None:
        classes = found.described.classes
    taken = found.described.taken(conditions)
    return ModelConfig(
        architecture=found.architecture,
        shape=tuple(shape),
        classes=classes,
        conditions=taken,
        guidance_input=found.described.guidance_input,
        guidable=0 < classes < found.described.labels if classes else bool(taken),
        **{name: said[name] for name in DECLARATION},
    )


def assemble(config: ModelConfig, found: Found, table: Table | None = None) -> Model:
    """Return the model with the weights that were found, on the CPU and in evaluation mode.

    Args:
        config: What it is.
        found: What a format saw.
        table: What its conditions are drawn from, if that is known.

    Raises:
        UserError: if the network can't be built, or the weights are not its own.
    """
    model = build(config, seed=0, table=table)
    network = model.network.network if isinstance(model.network, Adapter) else model.network
    fill(network, found.files)
    return model.eval()
