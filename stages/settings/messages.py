"""What pydantic finds wrong in settings, said with the setting's path, its value and the remedy."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fewstep.renamed import MOVED, nearest
from stages.settings.yaml_text import shown

UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}


def explain(error: ValidationError, model: type[BaseModel], path: str) -> list[str]:
    """Return one line for each problem of the section at `path`, whose Config is `model`."""
    places = [(path + "".join(map(step, where)), text) for where, text in found(error, model)]
    return [place + (f" is {MOVED[place]} now" if place in MOVED else text) for place, text in places]


def step(part: str | int) -> str:
    """Write one step of a setting's path."""
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def found(error: ValidationError, model: type) -> Iterator[tuple[tuple, str]]:
    """Yield the place of each problem, as keys from the section downwards, and what to say after its path."""
    problems = error.errors(include_url=False)
    places = {problem["loc"] for problem in problems}
    for problem in problems:
        where, kind = problem["loc"], problem["type"]
        if kind == "too_short" and any(place[: len(where)] == where != place for place in places):
            continue  # pydantic counts only the items that are right
        if kind == "plugin":
            yield from ((where + inner, text) for inner, text in problem["ctx"]["problems"])
        elif kind in UNKNOWN:
            yield where, " is not a setting; " + suggest(str(where[-1]), names_at(model, where[:-1]))
        elif kind in MISSING:
            yield where, " is missing"
        elif kind == "model_type":
            yield where, f" should be a mapping of settings, got {shown(problem['input'])}"
        elif kind == "value_error":
            yield where, f": {problem['ctx']['error']}"
        elif kind == "tuple_type":  # which YAML has no word for
            yield where, f" should be a list, got {shown(problem['input'])}"
        elif kind == "dataclass_type":
            yield where, f" should be a mapping of settings, got {shown(problem['input'])}"
        else:
            message = re.sub(r"^\w+ should ", "", problem["msg"])  # of the value, or of the kind that it is
            yield where, f" should {message}, got {shown(problem['input'])}{hint(problem)}"


def hint(problem: Mapping[str, Any]) -> str:
    """Return what to add to a problem with a value that should be one of some words."""
    words = re.findall("'([^']*)'", problem["ctx"]["expected"]) if problem["type"] == "literal_error" else []
    near = nearest(str(problem["input"]), words)
    return f"; did you mean {near!r}?" if near else ""


def suggest(name: str, names: list[str]) -> str:
    """Say which of `names` was perhaps meant, or else list them."""
    near = nearest(name, names, cutoff=0.5)
    return f"did you mean {near!r}?" if near else f"there are: {', '.join(names) or 'none'}"


def names_at(model: Any, where: tuple) -> list[str]:
    """Return the names of the settings of the model or dataclass that lies at `where` below `model`."""
    for part in where:
        model = child(model, part)
    if dataclasses.is_dataclass(model):
        return [field.name for field in dataclasses.fields(model)]
    return list(getattr(model, "model_fields", {}))


def child(model: Any, part: str | int) -> Any:
    """Return the class of the settings called `part` of `model`, looked for inside unions and lists too."""
    hints = typing.get_type_hints(model) if isinstance(part, str) else {}
    options = [hints.get(str(part), model)]
    while options:
        kind = options.pop(0)
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)):
            return kind
        options += typing.get_args(kind)
    return None
