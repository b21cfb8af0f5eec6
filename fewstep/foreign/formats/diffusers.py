"""Diffusers: the folder of a pipeline, or of its network alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.errors import UserError
from fewstep.files import read_text
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.foreign.found import Found

with lazy_imports():
    from fewstep.foreign import found, library, schedulers, weights

PIPELINE, NETWORK, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
COMPONENTS = ("transformer", "unet")
ENCODER = "text_encoder"
"""What the names of text encoders begin with."""


@dataclass(frozen=True, kw_only=True)
class Diffusers:
    """Settings of the format: a folder as `save_pretrained` writes it."""

    marks: ClassVar[tuple[str, ...]] = ()
    of_diffusers: ClassVar[bool] = True

    component: str | None = None
    """The folder of the network in that of a pipeline; if nobody says, transformer or unet."""

    def look(self, folder: Path) -> Found:
        """See Format.look."""
        place = self.place_of_network(folder)
        config = read_json(place / NETWORK)
        name = config.get("_class_name")
        if is_of_fewstep(place):
            raise UserError(
                f"{place} is a model directory of fewstep, and no folder of diffusers; a chain takes it as "
                "pretrain.KEY.checkpoint, where KEY is a name for the model"
            )
        if not isinstance(name, str):
            raise UserError(f"{place / NETWORK} names no class: it is not of a network of diffusers")
        described = library.describe(name, config)
        declared, notes = scheduler_of(folder, place)
        parts = sorted(file.parent.name for file in folder.glob("*/config.json") if file.parent != place)
        if encoders := [part for part in parts if part.startswith(ENCODER)]:
            parts = [part for part in parts if part not in encoders]
            notes += (
                f"there is a {encoders[0]}: set prompts.file beside the folder to a file of prompts, and it "
                "makes the conditions",
            )
        if parts:
            notes += (f"of the pipeline these parts are not taken: {', '.join(parts)}",)
        if "vae" in parts:
            notes += (
                f"there is a vae: the samples of the network are latents; set prepare.codec.folder to "
                f"{folder / 'vae'}",
            )
        return found.Found(
            architecture={"name": "diffusers", "network": name, "config": library.own_options(config)},
            files=weights.files_of(place),
            described=described,
            declared=declared,
            notes=notes,
        )

    def place_of_network(self, folder: Path) -> Path:
        """Return the folder of the network's own files.

        Raises:
            UserError: if there is none.
        """
        if self.component is not None:
            return folder / self.component
        if not (folder / PIPELINE).exists():
            return folder
        there = [name for name in COMPONENTS if (folder / name / NETWORK).exists()]
        if not there:
            raise UserError(
                f"{folder} is a pipeline without {' or '.join(COMPONENTS)}; name the folder of its network "
                "as the format's component"
            )
        return folder / there[0]


def scheduler_of(folder: Path, place: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the scheduler beside a network says of it, and what was seen of the scheduler."""
    possible = (folder / "scheduler", place, place.parent / "scheduler")
    for file in (each / SCHEDULER for each in possible):
        if not file.exists():
            continue
        try:
            return schedulers.declared(read_json(file)), ()
        except UserError as error:
            return {}, (str(error),)
    return {}, (f"there is no {SCHEDULER} in {folder}: the folder doesn't say what the network predicts",)


def is_of_fewstep(folder: Path) -> bool:
    """Return whether a folder is a model directory of fewstep, by its config.json.

    Raises:
        UserError: if that is no mapping in JSON.
    """
    file = folder / NETWORK
    return file.is_file() and isinstance(read_json(file).get("architecture"), dict)


def read_json(file: Path) -> dict[str, Any]:
    """Return what a file of JSON says.

    Raises:
        UserError: if it is missing, or no mapping in JSON.
    """
    try:
        content = json.loads(read_text(file))
    except FileNotFoundError:
        raise UserError(
            f"{file.parent} has no {file.name}: it is no folder that diffusers wrote; for weights of a "
            "network class of your own take the format state_dict, for those of EDM, DiT, SiT or torchcfm "
            "theirs"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold a mapping")
    return content
