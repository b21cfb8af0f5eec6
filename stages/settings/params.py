"""params.yaml, decoded for all stages at once and without torch, before any work starts."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fewstep.errors import UserError
from stages.settings import checks, discovery, messages
from stages.settings.fields import (
    Count,
    Guidance,
    MethodPlugin,
    ModelPlugin,
    Named,
    Plugin,
    SearchPlugin,
    Settings,
    SolverName,
)

__all__ = [
    "Count",
    "Guidance",
    "MethodPlugin",
    "ModelPlugin",
    "Named",
    "Params",
    "Plugin",
    "SearchPlugin",
    "Settings",
    "SolverName",
]

PARAMS = Path("params.yaml")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def canonical(value: Any) -> str:
    """Return the one JSON text of settings or plain values: sorted, defaults included."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return a line for each value that differs between two trees of plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [
            line for n in names for line in differences(old.get(n), new.get(n), f"{path}.{n}" if path else n)
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def deciding(config: BaseModel) -> dict[str, Any]:
    """Return the settings that decide a result, as plain values: all but `gates`, which only judge it."""
    return config.model_dump(mode="json", exclude={"gates"})


class Params:
    """What params.yaml says, section by section."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    @classmethod
    def read(cls, file: Path = PARAMS) -> "Params":
        """Read the file without decoding its sections.

        Raises:
            UserError: if it is missing, or no YAML mapping.
        """
        try:
            raw = yaml.safe_load(file.read_text())
        except FileNotFoundError:
            raise UserError(
                f"there is no {file} in {Path.cwd()}; run stages from the project's root"
            ) from None
        except yaml.YAMLError as error:
            raise UserError(f"{file} is no valid YAML: {error}") from None
        if not isinstance(raw, dict):
            raise UserError(f"{file} must hold a mapping of stages to settings, got {raw!r}")
        return cls(raw)

    @property
    def seed(self) -> Any:
        """The seed of all stages; `check` sees that it is a whole number from 0."""
        return self.raw.get("seed")

    def keys(self, stage: str) -> list[str | None]:
        """Return the keys of a stage, such as boss-4 of distill; [None] if it has only one output."""
        section = self.raw.get(stage)
        return list(section if isinstance(section, dict) else []) if discovery.keyed(stage) else [None]

    def outputs(self) -> dict[str, tuple[str, str | None]]:
        """Return the stage and key that make each artifact, by its path."""
        pairs = [(stage, key) for stage in discovery.names() for key in self.keys(stage)]
        return {discovery.load(stage).output(key): (stage, key) for stage, key in pairs}

    def config(self, stage: str, key: str | None = None) -> Any:
        """Return the Config of one stage and key.

        Raises:
            UserError: if there is none or it is wrong; the message has a line for each problem.
        """
        section = self.raw.get(stage)
        if key is not None:
            section = section.get(key) if isinstance(section, dict) else None
        address = f"{stage}.{key}" if key is not None else stage
        if not isinstance(section, dict):
            raise UserError(f"params.yaml: {address} must be a mapping of settings, got {section!r}")
        model = discovery.load(stage).Config
        try:
            return model.model_validate(section)
        except ValidationError as error:
            raise UserError("\n".join(messages.explain(error, model, address))) from None

    def inputs(self, stage: str, key: str | None = None) -> dict[str, str]:
        """Return the paths that one stage and key reads, by the stage's names for them."""
        read = discovery.load(stage).inputs
        arguments = (self.config(stage, key), key, self)  # few stages look at the settings of others
        return read(*arguments[: len(inspect.signature(read).parameters)])

    def check(self) -> None:
        """Decode every section.

        Raises:
            UserError: if anything is wrong; the message has a line for each problem of each stage.
        """
        problems = list(self._problems())
        if not problems:  # checks across sections need sections that are right in themselves
            modules = [discovery.load(stage) for stage in discovery.names()]
            problems = [line for module in modules if hasattr(module, "check") for line in module.check(self)]
        if problems := problems or checks.circle(self):
            raise UserError("params.yaml needs mending:\n" + "\n".join(f"  {line}" for line in problems))

    def _problems(self) -> Iterator[str]:
        seed, names = self.raw.get("seed"), discovery.names()
        if type(seed) is not int or not 0 <= seed < 2**32:
            yield f"seed should be a whole number from 0 to 2**32 - 1, got {seed!r}"
        for name in self.raw:
            if name not in ("seed", *names):
                yield f"{name} is no stage; {messages.suggest(str(name), names)}"
        yield from (
            f"{path} can't be a setting's name: DVC would miss when it changes" for path in unseen(self.raw)
        )
        for stage in names:
            if stage not in self.raw:
                yield f"{stage} is missing: every stage needs a section of its settings"
            elif not discovery.keyed(stage):
                yield from self._section_problems(stage, None)
            elif not isinstance(section := self.raw[stage], dict):
                yield f"{stage} should be a mapping of names to settings, such as {{}}, got {section!r}"
            else:
                for key in section:
                    yield from self._key_problems(stage, key) or self._section_problems(stage, key)

    def _key_problems(self, stage: str, key: Any) -> list[str]:
        if not isinstance(key, str):
            return [f"{stage}.{key}: write a word for {key!r}; DVC silently defines no stage for other keys"]
        if not WORD.fullmatch(key):
            return [f"{stage}.{key}: names are letters, digits, - and _, or DVC can't address them"]
        return []

    def _section_problems(self, stage: str, key: str | None) -> list[str]:
        try:
            self.config(stage, key)
        except UserError as error:
            return str(error).splitlines()
        return []


def unseen(settings: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of settings called size or nfiles, at any depth.

    DVC leaves these names out of the key of its run cache (dvc.stage.cache, _get_cache_hash), so it would
    give a changed setting the result of the old one.
    """
    items = settings.items() if isinstance(settings, dict) else ()
    for name, value in items:
        place = f"{path}.{name}" if path else str(name)
        if name in ("size", "nfiles"):
            yield place
        yield from unseen(value, place)
