"""The file from which an interrupted training resumes: safetensors with a checksum, replaced atomically."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import emptied, set_aside, written_whole
from fewstep.finite import all_finite
from fewstep.sealed import seal, unseal

FACTS = "facts"  # a single metadata key: safetensors writes several in random order
TENSORS = "tensors"


def write_state(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replace `file` by these tensors, on the CPU and contiguous, and the facts of their training.

    Raises:
        UserError: if a tensor is not finite; the file is then unchanged.
    """
    wrong = [name for name, tensor in tensors.items() if not all_finite(tensor)]
    if wrong:
        raise UserError(f"training diverged: {wrong[0]} is no longer finite; lower learning_rate or clip")
    sealed = seal({**facts, TENSORS: _checksum(tensors)})
    # safetensors writes to a file of a random name first, which stays if the process is killed.
    with written_whole(file) as temporary, emptied(file.with_name(f"{file.name}.d")) as folder:
        save_file(tensors, folder / file.name, {FACTS: json.dumps(sealed, sort_keys=True)})
        (folder / file.name).replace(temporary)


def read_state(
    file: Path, facts: dict[str, Any], say: Callable[[str], None] = lambda text: None
) -> dict[str, Tensor] | None:
    """Return the tensors in `file`, or None if there is no such file, or a damaged one, which is set aside.

    Args:
        file: What `write_state` wrote.
        facts: What the tensors must belong to.
        say: Told of a damaged file.

    Raises:
        UserError: if the file belongs to a training with other facts.
    """
    if not file.exists():
        return None
    try:
        found, tensors = _read(file)
    except (SafetensorError, OSError, ValueError) as error:
        aside = set_aside(file)
        say(
            f"{file} is damaged ({error}); it is {aside.name} now, and the training starts from the beginning"
        )
        return None
    wanted = json.loads(json.dumps(facts))
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        raise UserError(f"{file} belongs to a training with another {', '.join(other)}; delete it")
    return tensors


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the facts and tensors of a file; no facts of one that no training wrote.

    Raises:
        SafetensorError, OSError, ValueError: if it is damaged.
    """
    with safe_open(file, framework="pt") as saved:
        metadata = saved.metadata() or {}
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118, not a dict
    if FACTS not in metadata:
        return {}, tensors
    found = unseal(json.loads(metadata[FACTS]))
    if found.pop(TENSORS) != _checksum(tensors):
        raise ValueError("the checksum of its tensors is another")
    return found, tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
