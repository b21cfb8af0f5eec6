"""The file from which an interrupted training resumes: safetensors, replaced atomically."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import written_whole

FACTS = "facts"  # a single metadata key: safetensors writes several in random order


def write_state(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replace `file` by these tensors and the facts of their training.

    Raises:
        UserError: if a tensor is not finite; the file is then unchanged.
    """
    wrong = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise UserError(f"training diverged: {wrong[0]} is no longer finite; lower learning_rate or clip")
    with written_whole(file) as temporary:
        owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        save_file(owned, temporary, {FACTS: json.dumps(facts, sort_keys=True)})


def read_state(file: Path, facts: dict[str, Any]) -> dict[str, Tensor] | None:
    """Return the tensors in `file`, or None if there is no such file.

    Raises:
        UserError: if the file is damaged, or belongs to a training with other facts.
    """
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as saved:
            found = json.loads((saved.metadata() or {}).get(FACTS, "{}"))
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}); delete it to train from the start") from error
    wanted = json.loads(json.dumps(facts))
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        raise UserError(f"{file} belongs to a training with another {', '.join(other)}; delete it")
    return tensors
