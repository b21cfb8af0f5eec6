"""Which format a folder is in: as the user says, or as the names of its weights tell."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from fewstep import registry
from fewstep.errors import UserError
from fewstep.foreign.formats import Format
from fewstep.foreign.formats.diffusers import NETWORK, PIPELINE
from fewstep.foreign.weights import PICKLED, files_of, shapes

FORMATS = "fewstep.foreign.formats"
OWN_CLASS = '--format \'{"name": "state_dict", "network": "module:Class"}\''


def settings_of(text: str) -> dict[str, Any]:
    """Return the settings of a format, its `name` among them, from a name or a mapping in JSON.

    Raises:
        UserError: if the text is neither.
    """
    if not text.lstrip().startswith("{"):
        return {"name": text}
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"the format {text!r} is no JSON ({error})") from error
    if not isinstance(settings.get("name"), str):
        raise UserError(
            f"the format {text!r} needs a name; add one of {', '.join(registry.available(FORMATS))}"
        )
    return settings


def made(settings: Mapping[str, Any]) -> Format:
    """Return the format of some settings.

    Raises:
        UserError: if there is no such format or option, or one is missing, of another type, or can't be.
    """
    options = dict(settings)
    kind = registry.find_settings(FORMATS, options.pop("name"))
    known = [field.name for field in dataclasses.fields(kind)]
    types = get_type_hints(kind)
    for option, value in options.items():
        if option not in known:
            raise UserError(f"format {settings['name']}: {registry.unknown('option', option, known)}")
        if not _is_of(types[option], value):
            told = inspect.formatannotation(types[option]).replace("typing.", "")
            raise UserError(f"format {settings['name']}: {option} must be {told}, got {value!r}")
    try:
        return kind(**options)
    except TypeError as error:
        raise UserError(f"format {settings['name']}: {error}") from error


def _is_of(kind: Any, value: Any) -> bool:
    """Return whether a value read from JSON is of the type of an option."""
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is_of(part, value) for part in parts)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_of(parts[1], each) for each in value.values())
    if get_origin(kind) is tuple:  # of any length
        return isinstance(value, list | tuple) and all(_is_of(parts[0], each) for each in value)
    if kind is float:
        return type(value) in (int, float)
    return kind is Any or type(value) is kind


def recognise(folder: Path) -> dict[str, Any]:
    """Return the settings of the format that a folder is in, which has marks among the names of its weights.

    A folder with a config, or with nothing, counts as one of diffusers.

    Raises:
        UserError: if the weights are of no format or of several, or need settings that they don't tell; the
            message says what to give.
    """
    beside = {file.suffix for file in folder.iterdir()}
    if (folder / PIPELINE).exists() or (folder / NETWORK).exists() or not beside & {".safetensors", *PICKLED}:
        return {"name": "diffusers"}
    names = shapes(files_of(folder)).keys()
    kinds = {name: registry.find_settings(FORMATS, name) for name in registry.available(FORMATS)}
    found = [name for name, kind in kinds.items() if names & set(kind.marks)]
    if not found:
        raise UserError(
            f"the weights in {folder} have names that no format knows, such as {min(names)}; put a file with "
            f"their network's class into the checkout, and name it: {OWN_CLASS}"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder} has weights as {' and '.join(found)} have them: say which, by "
            + " or ".join(f"--format {name}" for name in found)
        )
    needed = [
        field.name
        for field in dataclasses.fields(kinds[found[0]])
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if needed:
        example = json.dumps({"name": found[0], **dict.fromkeys(needed, "...")})
        raise UserError(
            f"{folder} has weights as {found[0]} has them, which don't say the {' and the '.join(needed)}; "
            f"give that with the format's other settings, as --format '{example}'"
        )
    return {"name": found[0]}
