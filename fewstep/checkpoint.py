"""Model directories: model.safetensors and config.json, what stages hand on."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import decoded, written_whole
from fewstep.model import Model, ModelConfig, build

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(folder: Path, model: Model) -> None:
    """Write the model directory; equal models give equal bytes.

    Raises:
        UserError: if a weight is not finite.
    """
    weights = {name: t.detach().cpu().clone().contiguous() for name, t in model.network.state_dict().items()}
    _refuse_infinite(folder, weights)
    with written_whole(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    with written_whole(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(asdict(model.config), indent=2, sort_keys=True) + "\n")


def load_config(folder: Path) -> ModelConfig:
    """Return the description of the model in `folder`.

    Raises:
        UserError: if it is missing or damaged, or there can be no such model; the message names the folder.
    """
    content = decoded(_content(folder, CONFIG), folder / CONFIG)
    try:
        return ModelConfig(**json.loads(content))
    except (UserError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error


def load_model(folder: Path) -> Model:
    """Return the model in `folder`, on the CPU and in evaluation mode.

    Raises:
        UserError: if a file is missing or damaged, the config or its architecture can't be, or the
            weights are not finite or not those of that architecture; the message names the folder.
    """
    config = load_config(folder)
    try:
        model = build(config, seed=0)
    except (UserError, TypeError) as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    _content(folder, WEIGHTS)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is damaged ({error})") from error
    wanted = {name: list(tensor.shape) for name, tensor in model.network.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{folder / WEIGHTS} does not fit {CONFIG}: it has {name} of shape {found.get(name)}, "
                f"the architecture of {wanted.get(name)} (None: not at all)"
            )
    _refuse_infinite(folder, weights)
    model.network.load_state_dict(weights)
    return model.eval()


def model_digest(folder: Path) -> str:
    """Return the sha256, in hexadecimal, over the weights and the config.

    Raises:
        UserError: if a file is missing; the message names the folder.
    """
    digests = [hashlib.sha256(_content(folder, name)).hexdigest() for name in (WEIGHTS, CONFIG)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _content(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no model directory: it has no {name}") from error


def _refuse_infinite(folder: Path, weights: dict[str, Tensor]) -> None:
    wrong = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise UserError(f"{folder}: {wrong[0]} and {len(wrong) - 1} other weights are not finite")
