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
TYPE = re.compile(r"(bool|int|float|str|(list|tuple|dict|literal|constrained-\w+)\b.*)")
"""What pydantic calls one of several types that a value may have."""
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
    problems = list(of_all_types(error.errors(include_url=False)))
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
        elif kind in ("model_type", "dataclass_type"):
            yield where, f" should be a mapping of settings, got {shown(problem['input'])}"
        elif kind == "value_error":
            yield where, f": {problem['ctx']['error']}"
        else:
            yield where, f" should {wanted(problem)}, got {shown(problem['input'])}{hint(problem)}"


def of_all_types(problems: list[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield problems, but one of a value that may have several types, where pydantic has one for each."""
    groups: dict[tuple, list[tuple[Mapping[str, Any], tuple]]] = {}
    for problem in problems:
        where = problem["loc"]
        at = next((at for at, part in enumerate(where) if TYPE.fullmatch(str(part))), len(where))
        groups.setdefault(where[:at], []).append((problem, where[at:]))
    for where, group in groups.items():
        inside = [(problem, inner[1:]) for problem, inner in group if inner[1:]]
        if len({inner[:1] for _, inner in group}) == 1:
            yield from (problem for problem, _ in group)
        elif inside:  # it is of one of the types, but for what is in it
            yield from ({**problem, "loc": where + inner} for problem, inner in inside)
        else:
            kinds = [wanted(problem).split(",")[0].removeprefix("be ") for problem, _ in group]
            yield {
                **group[0][0],
                "type": "union",
                "loc": where,
                "msg": f"Input should be {', or '.join(kinds)}",
            }


def wanted(problem: Mapping[str, Any]) -> str:
    """Return what a value should be or have."""
    told = re.sub(r"^\w+ should ", "", problem["msg"])  # of the value, or of the kind that it is
    told = re.sub(r" after validation, not \d+$", "", told)
    return {"tuple_type": "be a list", "dict_type": "be a mapping"}.get(problem["type"], told)


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
