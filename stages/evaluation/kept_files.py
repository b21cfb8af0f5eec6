"""What is kept of an entry: numbers as JSON, and tensors beside it; each appears whole, with its checksum."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fewstep.files import written_whole
from fewstep.sealed import seal, unseal

TENSORS = "tensors"


def write(file: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write both files; the JSON comes last and names the digest of the other."""
    content = save(tensors)
    sealed = seal({**facts, TENSORS: hashlib.sha256(content).hexdigest()})
    suffix = f".{os.getpid()}.tmp"  # other processes may write the same entry
    with written_whole(file.with_suffix(".safetensors"), suffix) as temporary:
        temporary.write_bytes(content)
    with written_whole(file, suffix) as temporary:
        temporary.write_text(json.dumps(sealed))


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what was written, and mark it as used now.

    Raises:
        FileNotFoundError: if nothing was.
        ValueError: if a file is damaged.
    """
    text = file.read_bytes()
    try:
        facts = unseal(json.loads(text))
        beside = file.with_suffix(".safetensors")
        content = beside.read_bytes()
        if facts.pop(TENSORS) != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{beside.name} is not as it was written")
        tensors = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    for used in (file, beside):
        os.utime(used)
    return facts, tensors
