"""An exported folder: written whole, after each of its files was read back and compared."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.fx import config

from fewstep import checkpoint, registry
from fewstep.errors import UserError
from fewstep.exporting import description, proof
from fewstep.exporting.sampler import ExportedSampler, reason
from fewstep.exports import Export, lacks
from fewstep.files import folder_written_whole
from fewstep.grids import Grid

Format = str | Mapping[str, Any]
"""The name of a file of fewstep.exports, or a mapping of that `name` and the options of the format."""


def export(
    model: Path,
    grid: Grid,
    out: Path,
    *,
    guidance: float = 1.0,
    formats: Sequence[Format] = ("pt2", "onnx"),
) -> dict[str, float]:
    """Write the sampler of a model directory to the new folder `out`.

    Args:
        model: the model directory.
        grid: the sampler's steps, with their solver.
        out: gets a file a format, fewstep.json and README.md.
        guidance: the scale of classifier-free guidance that the sampler computes; 1 is none.
        formats: files of fewstep.exports, some perhaps with options.

    Returns:
        For each file of a format, the largest difference of its samples to those of fewstep, relative to the
        size of the samples.

    Raises:
        UserError: `out` exists, there is no such format or its library is missing, the model can't be loaded,
            sampled so or traced, or a file's samples are not those of fewstep.
    """
    exports = ready(formats)
    with folder_written_whole(out) as folder:
        sampler = ExportedSampler(checkpoint.load_model(model), grid, guidance)
        proved = {}
        for name, format in exports.items():
            proved[format.file] = add(sampler, name, format, folder, model)
        describe(sampler, exports, proved, folder, model)
    return {file: found.difference for file, found in proved.items()}


def ready(formats: Sequence[Format]) -> dict[str, Export]:
    """Return formats by their names.

    Raises:
        UserError: there is none, one does not exist or has no such option, or a library of it is missing.
    """
    exports: dict[str, Export] = {}
    for format in formats:
        options: dict[str, Any] = {"name": format} if isinstance(format, str) else dict(format)
        if not isinstance(name := options.pop("name", None), str):
            raise UserError(f"a format is a name, or a mapping with a name and options; got {format}")
        try:
            exports[name] = registry.find("fewstep.exports", name)(**options)
        except TypeError as error:
            raise UserError(f"the format {name}: {error}") from error
        if told := lacks(name, exports[name]):
            raise UserError(told)
    if not exports:
        raise UserError(f"name a format: {', '.join(registry.available('fewstep.exports'))}")
    return exports


def add(sampler: ExportedSampler, name: str, format: Export, folder: Path, model: Path) -> proof.Proof:
    """Write the file of a format into a folder, read it back, and return what its samples differ by.

    Raises:
        UserError: the format can't hold the sampler, or its samples are not those of fewstep.
    """
    file = folder / format.file
    with quiet():
        with failures_of(name):
            format.write(sampler, file, model)
            exported = failures_of(name)(format.read(file, model))
        found = proof.difference(sampler, exported)
    if not found.difference <= proof.LIMIT:
        raise UserError(
            f"the format {name} does not make fewstep's samples: they differ by {found.difference:.1e} of "
            f"their size, and rounding explains {proof.LIMIT:g}; nothing is exported. Leave {name} out of "
            "the formats"
        )
    return found


def describe(
    sampler: ExportedSampler,
    exports: Mapping[str, Export],
    proved: Mapping[str, proof.Proof],
    folder: Path,
    model: Path,
) -> None:
    """Write fewstep.json and README.md of the formats that a folder got."""
    told = description.facts(
        checkpoint.load_config(model),
        sampler.grid,
        guidance=sampler.guidance,
        nfe=next(iter(proved.values())).nfe,
        digest=checkpoint.model_digest(model),
        differences={file: found.difference for file, found in proved.items()},
    )
    (folder / "fewstep.json").write_text(json.dumps(told, indent=1) + "\n")
    text = description.readme(model.resolve().name, told, list(exports.values()), sampler)
    (folder / "README.md").write_text(text)


@contextmanager
def failures_of(name: str) -> Iterator[None]:
    """Turn what the library of a format raises, say about an operator that it lacks, into a UserError."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # libraries raise whatever an operator that they lack leads to
        raise UserError(f"the format {name} can't hold this sampler: {reason(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what torch says to its own developers while it exports.

    Where in which file each node of a graph comes from is in no exported file, and takes a sixth of the time.
    """
    logger = logging.getLogger("torch.onnx")
    before = logger.level, config.do_not_emit_stack_traces
    logger.setLevel(logging.ERROR)
    config.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before[0])
        config.do_not_emit_stack_traces = before[1]
