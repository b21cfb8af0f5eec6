"""Model directories: model.safetensors, config.json, perhaps further files; stages hand them on.

A model that was trained as an adapter has the weights of its base in model.safetensors, with the bytes that
they have in the directory of that, and its own in lora.safetensors: it needs no other directory, and a store
of files by their content, as DVC's cache, holds the base once.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep import distributed, lora
from fewstep.conditions import Conditions, Table
from fewstep.errors import UserError, and_others
from fewstep.files import decoded, sha256, written_whole
from fewstep.finite import all_finite
from fewstep.lazy import lazy_imports
from fewstep.model import Model, ModelConfig, build
from fewstep.named_fields import made_of

with lazy_imports():
    from fewstep.networks import lora as adapters

WEIGHTS, CONFIG, CONDITIONS = "model.safetensors", "config.json", "conditions.safetensors"
LORA = "lora.safetensors"
FILES = (WEIGHTS, CONFIG, CONDITIONS, LORA)
"""All that a model directory may have; the first two are always there."""
LEFT_OUT = (
    "conditions",
    "equal_steps",
    "guidance_input",
    "guidance_range",
    "learned_from",
    "lora",
    "lora_base",
    "refined_model",
)
"""What config.json says nothing of, if a model has none."""


def save_model(folder: Path, model: Model) -> None:
    """Write the model directory; equal models give equal bytes.

    Raises:
        UserError: if a weight is not finite.
    """
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.network.state_dict().items():
        file, named = _place(model.config, name)
        files.setdefault(file, {})[named] = tensor.detach().cpu().clone().contiguous()
    for weights in files.values():
        _refuse_infinite(folder, {name: all_finite(weight) for name, weight in weights.items()})
    for file, weights in files.items():
        with written_whole(folder / file) as temporary:
            save_file(weights, temporary)
    with written_whole(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(_told(model.config), indent=2, sort_keys=True) + "\n")
    if model.conditions.table is not None:
        with written_whole(folder / CONDITIONS) as temporary:
            model.conditions.table.save(temporary)


def _told(config: ModelConfig) -> dict[str, Any]:
    """Return a config as JSON values, without what it has none of."""
    return {name: value for name, value in asdict(config).items() if value or name not in LEFT_OUT}


def load_config(folder: Path) -> ModelConfig:
    """Return the description of the model in `folder`.

    Raises:
        UserError: if it is missing or damaged, or there can be no such model; the message names the folder.
    """
    _must_be_there(folder / CONFIG)
    content = decoded((folder / CONFIG).read_bytes(), folder / CONFIG)
    try:
        return made_of(ModelConfig, json.loads(content))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{folder / CONFIG} is no valid JSON ({error}); copy the model directory again"
        ) from None
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error


def load_model(folder: Path, *, merge: bool = True) -> Model:
    """Return the model in `folder`, on the CPU and in evaluation mode.

    Args:
        folder: The model directory.
        merge: Whether an adapter is added to the weights of its base; otherwise it can be trained further.

    Raises:
        UserError: if a file is missing or damaged, the config or its architecture can't be, or the
            weights are not finite or not those of that architecture; the message names the folder.
    """
    config = load_config(folder)
    if config.conditions and not config.refines:
        _must_be_there(folder / CONDITIONS)
    try:
        model = build(config, seed=0, table=load_table(folder))
    except (UserError, TypeError) as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    state = model.network.state_dict()
    files: dict[str, dict[str, Tensor]] = {}
    for name, weight in state.items():
        file, named = _place(config, name)
        files.setdefault(file, {})[named] = weight
    for file, wanted in files.items():
        _fill(folder, file, wanted)
    return (lora.merged(model) if merge else model).eval()


def _place(config: ModelConfig, name: str) -> tuple[str, str]:
    """Return which file of a model directory holds a weight of the network, and its name there."""
    if config.lora is None:
        return WEIGHTS, name
    return LORA if adapters.is_of_adapter(name) else WEIGHTS, adapters.name_in_file(name)


@torch.no_grad()
def _fill(folder: Path, file: str, wanted: dict[str, Tensor]) -> None:
    """Copy the weights in a file of a model directory into those `wanted`, which have their names and shapes.

    Raises:
        UserError: see `load_model`.
    """
    _must_be_there(folder / file)
    finite = {}
    try:
        with safe_open(folder / file, "pt") as weights:
            names = list(weights.keys())
            found = {name: weights.get_slice(name).get_shape() for name in names}
        _refuse_other_shapes(folder / file, found, wanted)
        ordered = iter(wanted)
        for piece in distributed.buckets([*wanted.values()]):
            with safe_open(folder / file, "pt") as weights:  # again: what was read of it leaves the memory
                for tensor, name in zip(piece, ordered, strict=False):
                    tensor.copy_(weights.get_tensor(name))
                    finite[name] = all_finite(tensor)
    except SafetensorError as error:
        raise UserError(f"{folder / file} is damaged ({error}); copy or make the model again") from error
    _refuse_infinite(folder, finite)


def _refuse_other_shapes(file: Path, found: dict[str, list[int]], wanted: dict[str, Tensor]) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in wanted.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            here, there = (f"of shape {x[name]}" if name in x else "not at all" for x in (found, shapes))
            raise UserError(
                f"{file} does not fit {CONFIG}: it has {name} {here}, the architecture {there}; copy both "
                "files from the same model directory"
            )


def load_table(folder: Path) -> Table | None:
    """Return the conditions that lie in a folder, of a model or of prepared data; None if there are none.

    Raises:
        UserError: if they are damaged.
    """
    return Table.load(folder / CONDITIONS) if (folder / CONDITIONS).exists() else None


def table_with(folder: Path, names: Collection[str]) -> Table:
    """Return the conditions of these names that lie in a folder.

    Raises:
        UserError: if there are none, or others.
    """
    table = load_table(folder)
    if missing := set(names) - (set() if table is None else table.rows.keys()):
        raise UserError(f"{folder} has no condition {min(missing)}; prepare data that has it")
    assert table is not None
    return table.only(names)


def load_conditions(folder: Path) -> Conditions:
    """Return the law of the conditions of the model in `folder`.

    Raises:
        UserError: if a file is missing or damaged.
    """
    config = load_config(folder)
    return Conditions(config.class_shares, config.conditions, load_table(folder))


def files_of(folder: Path) -> list[str]:
    """Return the names of a model directory's files."""
    return [name for name in FILES if name in (WEIGHTS, CONFIG) or (folder / name).exists()]


def model_digest(folder: Path) -> str:
    """Return the sha256, in hexadecimal, over the weights, the config, the conditions and the adapter.

    Raises:
        UserError: if a file is missing; the message names the folder.
    """
    digests = []
    for name in files_of(folder):
        _must_be_there(folder / name)
        digests.append(sha256(folder / name))
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _must_be_there(file: Path) -> None:
    if not file.is_file():
        raise UserError(
            f"{file.parent} is no model directory: it has no {file.name}; name a folder that a training, "
            "`fewstep average` or the stage adopt made"
        )


def _refuse_infinite(folder: Path, finite: Mapping[str, bool]) -> None:
    if wrong := [name for name, is_finite in finite.items() if not is_finite]:
        raise UserError(
            f"{folder}: not finite: {and_others(wrong, 'weight')}; take a model whose training did not "
            "diverge, such as one with a lower learning_rate"
        )
