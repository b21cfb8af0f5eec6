"""Survey: what a folder says of the model in it, the check of that, and its lines for params.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fewstep import declaration
from fewstep.checkpoint import WEIGHTS, load_model
from fewstep.conditions import TAKEN
from fewstep.errors import UserError
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.diffusers import is_of_fewstep
from fewstep.foreign.found import Described
from fewstep.foreign.recognised import made, recognise, settings_of
from fewstep.foreign.weights import sizes
from fewstep.model import Model
from fewstep.network_times import NETWORK_TIMES
from fewstep.paths import PATHS
from fewstep.predictions import PARTS
from fewstep.shards import Shards

CHECKED = 128
"""Samples of the data on which a declaration is checked."""
CHOICES = {"prediction": list(PARTS), "path": list(PATHS), "time": list(NETWORK_TIMES)}
PLAIN_KEY = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][\w-]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A model in a folder, and what the folder says of it."""

    model: Model
    network: str
    weights: str
    shape: tuple[int | None, ...] | None
    """Of a sample; None where nobody says."""
    missing: tuple[str, ...] = ()
    """Of CHOICES what the folder doesn't say; the model has defaults there."""
    notes: tuple[str, ...] = ()
    """What else was seen, a sentence each."""
    described: Described | None = None
    """What the folder says of the network; None for a model directory of fewstep."""
    format: Mapping[str, Any] = field(default_factory=dict)
    """The name and the settings of the folder's format, as params.yaml has them."""

    def rows(self) -> dict[str, str]:
        """Return what to tell of it, by name."""
        c = self.model.config
        said = {
            name: "the folder doesn't say" if name in self.missing else declaration.plain(getattr(c, name))
            for name in CHOICES
        }
        if "time" not in self.missing:
            said["time"] += f", times {declaration.plain(c.time_scale)}"
        guided = f"the first {c.guidance_channels} channels" if c.guidance_channels else "all channels"
        why_not = "no null condition is known" if c.classes else "it has no classes"
        told = f"on {guided}" if c.condition_names and c.guidable else f"none: {why_not}"
        told = "an input of the network" if c.guidance_input else told
        return {
            "network": self.network,
            "weights": self.weights,
            "samples": "nothing says their shape" if self.shape is None else shown(self.shape),
            **said,
            "classes": str(c.classes),
            **self._conditions(),
            "guidance": told,
        }

    def _conditions(self) -> dict[str, str]:
        """Return the row of the conditions beside the label, if there are any."""
        if self.described is None:
            told = [f"{name} {shape}" for name, shape in self.model.config.conditions.items()]
        else:
            told = [f"{name} {shown(shape)}" for name, shape in self.described.conditions.items()]
            told += [f"perhaps {name}" for name in self.described.optional if told]
            told += [f"images of {self.described.beside} channels"] if self.described.beside else []
        return {"conditions": ", ".join(told)} if told else {}


def shown(shape: tuple[int | None, ...]) -> str:
    """Return a shape, "any" where nobody says the size."""
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def look(folder: Path, format: str | None = None) -> Seen:
    """Return what lies in a folder: a model of any format, or a model directory.

    Args:
        folder: Where it lies.
        format: The name of its format, or its settings with the name as a mapping in JSON; None for the one
            that the folder looks like.

    Raises:
        UserError: if there is no such folder, or it holds no model that fewstep can take.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; give the one that save_pretrained wrote, one with weights in "
            "safetensors, or a model directory of fewstep"
        )
    if format is not None:
        return _of(folder, settings_of(format))
    if is_of_fewstep(folder):
        return _of_fewstep(folder)
    return _of(folder, recognise(folder))


def _of_fewstep(folder: Path) -> Seen:
    model = load_model(folder)
    return Seen(
        model=model,
        network=f"{model.config.architecture['name']}, a model directory of fewstep",
        weights=sizes([folder / WEIGHTS]),
        shape=model.config.shape,
    )


def _of(folder: Path, format: dict[str, Any]) -> Seen:
    found = made(format).look(folder)
    described = found.described
    side = described.sides  # a network of any shape has the same weights for all
    shape = described.shape((1, side, side))
    unsaid = {"prediction": "velocity", "path": "linear", "time": "t"}
    needed = described.any_conditions()
    model = assemble(config_of(found, shape, unsaid | found.declared, conditions=needed), found)
    notes = found.notes
    if described.labels and not described.null:
        notes += (
            f"if the last of its {described.labels} labels is the null condition of guidance, set classes to "
            f"{described.labels - 1}: the folder doesn't say",
        )
    network = found.architecture.get("network", found.architecture["name"])
    return Seen(
        model=model,
        network=f"{network}, in the format {format['name']}",
        weights=sizes(found.files),
        shape=(described.channels, *(described.side or (None, None))) if described.channels else None,
        described=described,
        missing=tuple(name for name in CHOICES if name not in found.declared),
        notes=notes,
        format=format,
    )


def check(seen: Seen, data: Path) -> declaration.Verdict | str:
    """Check what a folder says on data that `prepare` made; return a sentence if it can't be checked.

    Raises:
        UserError: if the data is damaged.
    """
    config = seen.model.config
    if config.trained_times != "all":
        return "it is a student, which was not trained at all times"
    if seen.missing:
        return f"set {', '.join(seen.missing)} below, then the stage adopt checks them"
    if not (data / "held_out").is_dir():
        return f"there is no data in {data}; `dvc repro prepare` makes it"
    samples = Shards(data / "held_out").some(CHECKED, seed=0)
    shape = tuple(samples["data"].shape[1:])
    own = (None,) * len(shape) if seen.shape is None else seen.shape
    if len(shape) != len(own) or any(
        size not in (None, there) for size, there in zip(own, shape, strict=True)
    ):
        wanted = seen.rows()["samples"]
        return f"the network makes samples of shape {wanted}, those in {data} have {shape}; prepare such data"
    device = next(seen.model.parameters()).device
    samples = {name: each.to(device) for name, each in samples.items()}
    try:
        if seen.described is not None:
            there = {name: tuple(each.shape[1:]) for name, each in samples.items() if name not in TAKEN}
            config = replace(config, conditions=seen.described.taken(there))
        conditions = declaration.conditions_of(config, samples)
    except UserError as error:
        return str(error)
    model = Model(config, seen.model.network).to(device)
    return declaration.check(model, samples["data"], conditions, seed=0)


def refuse(verdict: declaration.Verdict | str) -> None:
    """Refuse a model that is probably not what it is declared to be.

    Raises:
        UserError: saying why.
    """
    if not isinstance(verdict, str) and verdict.problems:
        raise UserError(f"the check of the declaration failed: {'; '.join(verdict.problems)}")


def report(seen: Seen, verdict: declaration.Verdict | str, place: Path, root: Path) -> str:
    """Return what to tell a user of a folder, and its lines for params.yaml.

    Args:
        seen: What it says.
        verdict: What `check` returned.
        place: Where it lies; absolute.
        root: The folder of params.yaml; absolute.
    """
    rows = [f"{name + ':':12}{value}" for name, value in seen.rows().items()]
    key, notes = key_of(place), list(seen.notes)
    if place.is_relative_to(root / "data") and place != root / "data":
        folder = place.relative_to(root).as_posix()
    else:
        folder = f"data/{key}"
        notes.append(f"put the folder at {folder}, where DVC sees it change")
    if isinstance(verdict, str):
        notes.append(f"the check of the declaration is left out: {verdict}")
    else:
        notes += [verdict.told(), *verdict.notes]
    rows += [f"note: {note}" for note in notes]
    return "\n".join([*rows, "", "The lines for params.yaml:", "", lines(seen, key, folder)])


def lines(seen: Seen, key: str, folder: str) -> str:
    """Return the lines of params.yaml that give a model to the chain.

    Args:
        seen: What its folder says.
        key: The name that the chain shall call it by.
        folder: As the settings name it, below data/.
    """
    quoted = key if PLAIN_KEY.fullmatch(key) else json.dumps(key)
    if seen.described is None:
        return f"pretrain:\n  {quoted}:\n    checkpoint: {json.dumps(folder)}"
    said: dict[str, Any] = {name: getattr(seen.model.config, name) for name in (*CHOICES, "time_scale")}
    if seen.model.config.classes:
        said["classes"] = seen.model.config.classes
    written = ["adopt:", f"  {quoted}:"]
    written.append(f"    folder: {json.dumps(folder)}")
    if seen.format != {"name": "diffusers"}:
        written.append(f"    format: {told(seen.format) if len(seen.format) > 1 else seen.format['name']}")
    for name, value in said.items():
        if name in seen.missing:
            written.append(f"    # {name}: one of {', '.join(CHOICES[name])}")
        elif name == "time_scale" and "time" in seen.missing:
            written.append("    # time_scale: the factor of the time; 1 if nothing is said")
        else:
            written.append(f"    {name}: {declaration.plain(value)}")
    return "\n".join(written)


def told(value: Any) -> str:
    """Return settings as they are written in params.yaml, words in quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)}: {told(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(told, value)) + "]"
    return declaration.plain(value) if isinstance(value, float) else json.dumps(value)


def key_of(folder: Path) -> str:
    """Return a key of params.yaml for a folder: its name, of letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-_") or "model"
