"""params.yaml, decoded for all stages at once and without torch, before any work starts."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fewstep.errors import UserError
from fewstep.files import read_text
from stages.settings import discovery, messages, yaml_text

PARAMS = Path("params.yaml")


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
    return [] if old == new else [f"{path}: {yaml_text.shown(old)} -> {yaml_text.shown(new)}"]


def deciding(config: BaseModel) -> dict[str, Any]:
    """Return the settings that decide a result, as plain values: all but `gates`, which stop the chain."""
    return config.model_dump(mode="json", exclude={"gates"})


class Params:
    """What params.yaml says, section by section; each is decoded when it is first asked for, and kept."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self._configs: dict[tuple[str, str | None], Any] = {}

    @classmethod
    def read(cls, file: Path = PARAMS) -> "Params":
        """Read the file without decoding its sections.

        Raises:
            UserError: if it is missing, not in UTF-8, or no YAML mapping that all tools read alike.
        """
        try:
            raw = yaml_text.read(read_text(file), str(file))
        except FileNotFoundError:
            raise UserError(
                f"there is no {file} in {Path.cwd()}; run stages from the project's root"
            ) from None
        if not isinstance(raw, dict):
            raise UserError(f"{file} must hold a mapping of stages to settings, got {yaml_text.shown(raw)}")
        return cls(raw)

    @property
    def seed(self) -> Any:
        """The seed of all stages; a whole number from 0 once the settings are checked."""
        return self.raw.get("seed")

    def keys(self, stage: str) -> list[Any]:
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
        if (stage, key) not in self._configs:
            self._configs[stage, key] = self._decode(stage, key)
        return self._configs[stage, key]

    def _decode(self, stage: str, key: str | None) -> Any:
        section = self.raw.get(stage)
        if key is not None:
            section = section.get(key) if isinstance(section, dict) else None
        address = f"{stage}.{key}" if key is not None else stage
        if not isinstance(section, dict):
            raise UserError(
                f"params.yaml: {address} must be a mapping of settings, got {yaml_text.shown(section)}"
            )
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


def texts(settings: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place of each text in settings, such as `prepare.source`, and the text, at any depth."""
    if isinstance(settings, str):
        yield place, settings
    named = dict(enumerate(settings)) if isinstance(settings, list) else settings
    for name, value in named.items() if isinstance(named, dict) else ():
        yield from texts(value, f"{place}.{name}" if place else str(name))
