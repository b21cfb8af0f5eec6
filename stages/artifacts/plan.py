"""What a stage is about to do: settings, inputs, and the fingerprint that names the result beforehand."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from fewstep.errors import UserError
from fewstep.links import refuse_linked_folders
from stages.artifacts import damage, manifests
from stages.settings import discovery
from stages.settings.params import Params, canonical, deciding, differences


@dataclass(frozen=True)
class Input:
    """An artifact, or a file or folder of the user's, as a stage found it."""

    path: Path
    digest: str
    """Of its manifest; of names and bytes if it has none."""
    manifest: dict[str, Any] | None = field(default=None, repr=False)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest of the result says of this input."""
        made = self.manifest["fingerprint"] if self.manifest else None
        return {"path": self.path.as_posix(), "digest": self.digest, "fingerprint": made}


NONE: Mapping[str, Input] = MappingProxyType({})


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
    def read(
        cls,
        params: Params,
        stage: str,
        key: str | None,
        *,
        known: Mapping[str, Input] = NONE,
        complete: bool = True,
    ) -> "Plan":
        """Read what the stage is to do from `params`, the stage's file and its inputs, as they are now.

        Args:
            params: The settings.
            stage: The stage.
            key: Its key.
            known: Inputs that were read before, by name; unchanged manifests are not decoded again.
            complete: Whether all inputs must be usable; else the plan has those that are.

        Raises:
            UserError: if settings are wrong, or an input is missing, damaged or out of date.
        """
        makers = params.outputs()
        found: dict[str, Input] = {}
        for name, path in params.inputs(stage, key).items():
            with suppress(*([] if complete or path not in makers else [UserError])):
                found[name] = examine(Path(path), params, makers, known.get(name))
        return cls(stage, key, discovery.version(stage), params.seed, params.config(stage, key), found)

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

    @cached_property
    def ancestors(self) -> list[dict[str, Any]]:
        """The manifests of all results that the inputs are or rest on, the first made first."""
        return ancestors(self.inputs)

    def check_gate(self, facts: dict[str, Any]) -> None:
        """Ask the stage's `gate`, if it has one, whether the chain may go on with a finished result.

        Raises:
            UserError: if it may not.
        """
        gate = getattr(self.module, "gate", None)
        if gate and (problem := gate(self.config, self.key, facts)):
            raise UserError(problem)

    def check_inputs(self) -> None:
        """Read what the stage will read of other stages' results, and compare it with their manifests.

        Shards are left to who reads them (fewstep.shards), for there may be many and not all are needed.

        Raises:
            UserError: if a file is not as it was written; names it and the remedy.
        """
        for item in self.inputs.values():
            if item.manifest is not None:
                found = damage.by_digest(item.path, item.manifest, but=lambda file: file.suffix == ".tar")
                if found:
                    file, problem = next(iter(found.items()))
                    maker = discovery.address(item.manifest["stage"], item.manifest["key"])
                    raise UserError(f"can't use {item.path}: {file} {problem}; run: {repair(maker)}")

    def check_unchanged(self) -> None:
        """See that nothing that decides the result changed while the stage ran.

        Raises:
            UserError: if something did; publishing now would give new settings an old result.
        """
        try:
            now = Plan.read(Params.read(), self.stage, self.key, known=self.inputs)
        except UserError as error:
            changes = [str(error)]
        else:
            changes = differences(self.facts(), now.facts())
        if changes:
            raise UserError(
                "settings, code or inputs changed while this ran, so nothing was published:\n"
                + "\n".join(f"  {line}" for line in changes)
                + f"\nRun: dvc repro {self.address} (with the old values again, it publishes what was made)"
            )


def examine(
    path: Path, params: Params, makers: dict[str, tuple[str, str | None]], known: Input | None
) -> Input:
    """Return an input, which must be there, be whole, and be made with today's settings.

    Args:
        path: Where it lies.
        params: Today's settings.
        makers: The stage and key that make each artifact, by its path.
        known: The same input as it was read before, if it was.

    Raises:
        UserError: if it is missing, damaged, or disagrees with the settings; names it and the remedy.
    """
    maker = makers.get(path.as_posix())
    if maker is None:  # the user's own
        refuse_linked_folders(Path(), path.as_posix())
        if not path.exists():
            raise UserError(f"needs {path}, which is not there; put it there, or name another in params.yaml")
        return Input(path, manifests.content_digest(path))
    address = discovery.address(*maker)
    remedy = f"run: dvc repro {address}"
    digest = manifests.digest(path)
    manifest = known.manifest if known and known.digest == digest else manifests.read(path)
    if digest is None or manifest is None:
        raise UserError(f"needs {path}, which is not there or not whole; {remedy}")
    if problem := damage.first_by_size(path, manifest):
        raise UserError(f"can't use {path}: {problem}; run: {repair(address)}")
    if staleness := stale(manifest, params, maker):
        raise UserError(
            f"needs {path}, which is out of date: {staleness}; {remedy} (with -f if DVC calls it up to date)"
        )
    return Input(path, digest, manifest)


def repair(address: str) -> str:
    """Return the commands that make a damaged result of a stage again, or restore it.

    The first removes damage from DVC's cache, from which the second may restore.
    """
    return f"fewstep recover && dvc repro {address}"


def stale(manifest: dict[str, Any], params: Params, maker: tuple[str, str | None]) -> str | None:
    """Say in what an artifact's manifest disagrees with what its stage would do today."""
    stage, key = maker
    if (manifest["stage"], manifest["key"]) != maker:
        other = discovery.address(manifest["stage"], manifest["key"])
        return f"{other} made it, not {discovery.address(*maker)}"
    config = deciding(params.config(stage, key))
    today = {"config": config, "seed": params.seed, "version": discovery.version(stage)}
    then = {name: manifest[name] for name in today}
    if then["config"] != config:
        then["config"] = read_today(then["config"], *maker)
    if changes := differences(then, today):
        return f"since it was made, {'; '.join(changes)}"
    for used in manifest["inputs"].values():
        if used["fingerprint"] is None:  # the user's own; DVC watches it
            continue
        if manifests.digest(Path(used["path"])) not in (None, used["digest"]):
            return f"since it was made, {used['path']} was made again"
    return None


def read_today(config: dict[str, Any], stage: str, key: str | None) -> dict[str, Any]:
    """Return recorded settings as the code of today reads them.

    One that came later has its default, with which stages do what they did before it came. Where one is gone,
    all stay as they were recorded.
    """
    section = config if key is None else {key: config}
    with suppress(UserError):
        return deciding(Params({stage: section}).config(stage, key))
    return config


def ancestors(inputs: Mapping[str, Input]) -> list[dict[str, Any]]:
    """Return the manifests of all results that these inputs are or rest on, the first made first."""
    read = {item.path: item.manifest for item in inputs.values()}
    waiting = list(read.values())
    found: dict[str, dict[str, Any]] = {}
    while waiting:
        if manifest := waiting.pop():
            found.pop(manifest["fingerprint"], None)  # again, so it comes before what was found meanwhile
            found[manifest["fingerprint"]] = manifest
            for used in manifest["inputs"].values():
                path = Path(used["path"])
                if used["fingerprint"] and path not in read:  # else the user's own
                    read[path] = manifests.read_if_whole(path)
                waiting += [read[path]] if used["fingerprint"] else []
    return list(reversed(found.values()))
