"""A teacher to make pairs with: the demo's network, with the weights it starts from."""

from pathlib import Path

from fewstep.checkpoint import save_model
from fewstep.model import ModelConfig, build

SHAPE = (1, 8, 8)


def teacher(folder: Path) -> Path:
    """Write the model directory of the demo's network and return it."""
    architecture = {"name": "unet", "width": 16, "multipliers": [1, 2]}
    save_model(folder, build(ModelConfig(architecture=architecture, shape=SHAPE), seed=0))
    return folder
