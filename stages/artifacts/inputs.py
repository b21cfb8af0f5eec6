"""The inputs of a stage must be there, be whole, and be made with today's settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from stages.artifacts import manifests
from stages.settings import discovery
from stages.settings.params import Params, deciding, differences


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


def examine(paths: dict[str, str], params: Params) -> dict[str, Input]:
    """Return the inputs by name.

    Raises:
        UserError: if one is missing, damaged, or disagrees with today's params; names it and the remedy.
    """
    makers = params.outputs()
    return {name: _examine(Path(path), params, makers) for name, path in paths.items()}


def _examine(path: Path, params: Params, makers: dict[str, tuple[str, str | None]]) -> Input:
    maker = makers.get(path.as_posix())
    if maker is None:  # the user's own
        if not path.exists():
            raise UserError(f"needs {path}, which is not there")
        return Input(path, manifests.content_digest(path))
    remedy = f"run: dvc repro {discovery.address(*maker)}"
    manifest = manifests.read(path)
    if manifest is None:
        raise UserError(f"needs {path}, which is not there or not whole; {remedy}")
    if damage := manifests.damaged(path, manifest):
        raise UserError(f"can't use {path}: {damage}; remove that folder and {remedy}")
    if staleness := _stale(manifest, params, maker):
        raise UserError(
            f"needs {path}, which is out of date: {staleness}; {remedy} (with -f if DVC calls it up to date)"
        )
    return Input(path, manifests.sha256(path / manifests.NAME), manifest)


def _stale(manifest: dict[str, Any], params: Params, maker: tuple[str, str | None]) -> str | None:
    """Say in what an artifact's manifest disagrees with what its stage would do today."""
    stage, key = maker
    if (manifest["stage"], manifest["key"]) != maker:
        return f"{discovery.address(manifest['stage'], manifest['key'])} made it"
    config = deciding(params.config(stage, key))
    today = {"config": config, "seed": params.seed, "version": discovery.version(stage)}
    if changes := differences({name: manifest[name] for name in today}, today):
        return f"since it was made, {'; '.join(changes)}"
    for used in manifest["inputs"].values():
        if used["fingerprint"] is None:  # the user's own; DVC watches it
            continue
        file = Path(used["path"]) / manifests.NAME
        if file.exists() and manifests.sha256(file) != used["digest"]:
            return f"since it was made, {used['path']} was made anew"
    return None
