"""What stands beside an exported sampler: `fewstep.json` for programs, README.md for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fewstep import __version__, noises, paths
from fewstep.exporting.sampler import ExportedSampler
from fewstep.exports import Export
from fewstep.grids import Grid
from fewstep.model import ModelConfig


def facts(
    config: ModelConfig, grid: Grid, *, guidance: float, nfe: int, digest: str, differences: dict[str, float]
) -> dict[str, Any]:
    """Return the content of fewstep.json.

    Args:
        config: of the model.
        grid: it is sampled with.
        guidance: that the sampler computes.
        nfe: network calls a sample.
        digest: of the model directory.
        differences: the largest relative difference of each file's samples to fewstep's.
    """
    return {
        "fewstep": __version__,
        "model_digest": digest,
        "shape": config.shape,
        "classes": config.classes,
        "class_names": config.class_names,
        "class_shares": config.class_shares,
        "conditions": config.conditions,
        "prediction": config.prediction,
        "path": config.path,
        "velocity_until": config.velocity_until,
        "times": grid.times,
        "sigmas": sigmas(grid),
        "manual_sigmas": manual_sigmas(config, grid),
        "solver": grid.solver,
        "nfe": nfe,
        "lora": None if config.lora is None else asdict(config.lora),
        "lora_base": config.lora_base,
        "guidance": config.guidance_shown(guidance),
        "in_range": config.in_range,
        "units": config.units,
        "files": {name: {"relative_difference": value} for name, value in differences.items()},
    } | noises.fact_of(config.noise)


def sigmas(grid: Grid) -> list[float]:
    """Return the share of noise at each timestep, 1 - t, the last 0 included."""
    return [1 - t for t in grid.times]


def manual_sigmas(config: ModelConfig, grid: Grid) -> str | None:
    """Return the steps as ComfyUI's node ManualSigmas takes them: a comma list that ends with 0.

    A flow on the linear path is given 1 - t there, a diffusion model the ratio (1 - t) / t of noise to data;
    None where that ratio is infinite, and for a flow map, whose network must be given the end of a step, too.
    """
    if config.velocity_until == "any":
        return None
    if paths.get(config.path) == paths.Linear():
        ratios = sigmas(grid)
    elif grid.times[0] > 0:
        ratios = [(1 - t) / t for t in grid.times]
    else:
        return None
    return ", ".join(f"{ratio:.9g}" for ratio in ratios)


def readme(name: str, told: dict[str, Any], exports: list[Export], sampler: ExportedSampler) -> str:
    """Return README.md.

    Args:
        name: of the model.
        told: what `facts` returned.
        exports: the formats that were written.
        sampler: what they hold.
    """
    parts = [
        f"# Sampler of {name}",
        f"fewstep {told['fewstep']} made this folder of the model with the digest `{told['model_digest']}`. "
        f"Sampling takes {told['nfe']} network calls a sample, solver `{told['solver']}`, "
        f"guidance {told['guidance']:g}. Any batch size goes.",
        table(tuple(told["shape"]), told),
    ]
    if told["lora_base"]:
        parts.append(
            f"The model is an adapter over that with the digest `{told['lora_base']}`. Files of an adapter "
            "hold it alone, all others have it in their weights."
        )
    for export in exports:
        measured = told["files"][export.file]["relative_difference"]
        parts.append(f"## {export.title}: {export.file}")
        parts.append(f"```python\n{export.call(sampler)}```")
        parts.append(f"Largest difference to fewstep's own samples, relative to their size: {measured:.1e}.")
    if "noise" in told:
        degrees = f"{told['noise']['degrees']:g}"
        parts.append(
            f"Noise of these calls is normal, and this model starts from {noises.get(told['noise']).told()}: "
            f"multiply that of each sample by sqrt({degrees} / w), where w is one chi-squared number with "
            f"{degrees} degrees of freedom."
        )
    parts.append("## Its steps")
    parts.append(f"t = {', '.join(f'{t:.9g}' for t in told['times'])}, from noise (0) to data (1).")
    if told["manual_sigmas"]:
        parts.append(f"For the node ManualSigmas of ComfyUI:\n\n    {told['manual_sigmas']}")
    parts.append("`fewstep.json` says all this for programs.")
    return "\n\n".join(parts) + "\n"


def table(shape: tuple[int, ...], told: dict[str, Any]) -> str:
    """Return the rows that say what goes in and what comes out."""
    batch = f"(batch, {', '.join(map(str, shape))})"
    values = ", in the units of the data" if told["units"] else ", in [-1, 1]" if told["in_range"] else ""
    rows = ["| tensor | type and shape | what |", "|---|---|---|"]
    rows.append(f"| `noise` | float32 {batch} | {noises.get(told.get('noise', 'gaussian')).told()} |")
    if told["classes"]:
        names = f": {', '.join(told['class_names'])}" if told["class_names"] else ""
        rows.append(f"| `label` | int64 (batch,) | classes 0 to {told['classes'] - 1}{names} |")
    for name, own in told["conditions"].items():
        rows.append(
            f"| `{name}` | float32 (batch, {', '.join(map(str, own))}) | what a sample is conditioned on |"
        )
    rows.append(f"| `samples` | {'float64' if told['units'] else 'float32'} {batch} | samples{values} |")
    return "\n".join(rows)
