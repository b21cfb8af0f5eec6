"""What a stage is about to do, and the fingerprint that names the result before it exists."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fewstep.errors import UserError
from stages.artifacts import inputs
from stages.artifacts.inputs import Input
from stages.settings import discovery
from stages.settings.params import Params, canonical, deciding, differences


@dataclass(frozen=True)
class Plan:
    """All that decides a stage's bytes; two equal plans have equal results."""

    stage: str
    key: str | None
    version: int
    seed: int
    config: Any
    inputs: dict[str, Input]

    @classmethod
    def read(cls, params: Params, stage: str, key: str | None) -> "Plan":
        """Read what the stage is to do from `params`, the stage's file and its inputs, as they are now.

        Raises:
            UserError: if settings are wrong, or an input is missing, damaged or out of date.
        """
        config = params.config(stage, key)
        found = inputs.examine(params.inputs(stage, key), params)
        return cls(stage, key, discovery.version(stage), params.seed, config, found)

    @property
    def address(self) -> str:
        """The stage's name in DVC, such as distill@boss-4."""
        return discovery.address(self.stage, self.key)

    @property
    def module(self) -> ModuleType:
        """The stage's file."""
        return discovery.load(self.stage)

    @property
    def out(self) -> Path:
        """Where the result is published, relative to the working directory."""
        return Path(self.module.output(self.key))

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain values; the manifest holds them."""
        return {
            "stage": self.stage,
            "key": self.key,
            "version": self.version,
            "seed": self.seed,
            "config": deciding(self.config),
            "inputs": {name: item.facts() for name, item in self.inputs.items()},
        }

    @property
    def fingerprint(self) -> str:
        """The sha256 of all that decides the result; the key too, since `run` sees it."""
        return hashlib.sha256(canonical(self.facts()).encode()).hexdigest()

    def judge(self, facts: dict[str, Any]) -> None:
        """Let the stage's `gate`, if it has one, judge the facts of a finished result.

        Raises:
            UserError: if the chain must not go on with it.
        """
        gate = getattr(self.module, "gate", None)
        if gate and (problem := gate(self.config, self.key, facts)):
            raise UserError(problem)

    def check_unchanged(self) -> None:
        """See that nothing that decides the result changed while the stage ran.

        Raises:
            UserError: if something did; publishing now would give new settings an old result.
        """
        try:
            now = Plan.read(Params.read(), self.stage, self.key)
        except UserError as error:
            changes = [str(error)]
        else:
            changes = differences(self.facts(), now.facts())
        if changes:
            raise UserError(
                "settings, code or inputs changed while this ran, so nothing was published:\n"
                + "\n".join(f"  {line}" for line in changes)
                + f"\nRun: dvc repro {self.address} (going back to the old values finds the work done)"
            )
