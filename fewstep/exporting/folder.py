"""An exported folder: written whole, after each of its files was read back and compared."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fewstep import checkpoint, registry
from fewstep.errors import UserError
from fewstep.exporting import description, proof
from fewstep.exporting.sampler import Sampler, first_line
from fewstep.exports import Export
from fewstep.files import folder_written_whole
from fewstep.grids import Grid


def export(
    model: Path, grid: Grid, out: Path, *, guidance: float = 1.0, formats: Sequence[str] = ("pt2", "onnx")
) -> dict[str, float]:
    """Write the sampler of a model directory to the new folder `out`.

    Args:
        model: the model directory.
        grid: the sampler's steps, with their solver.
        out: gets a file a format, fewstep.json and README.md.
        guidance: the scale of classifier-free guidance that the sampler computes; 1 is none.
        formats: files of fewstep.exports.

    Returns:
        For each file of a format, the largest difference of its samples to those of fewstep, relative to the
        size of the samples.

    Raises:
        UserError: `out` exists, there is no such format or its library is missing, the model can't be loaded,
            sampled so or traced, or a file's samples are not those of fewstep.
    """
    exports: dict[str, Export] = {name: registry.find("fewstep.exports", name)() for name in formats}
    if not exports:
        raise UserError(f"name a format: {', '.join(registry.available('fewstep.exports'))}")
    with folder_written_whole(out) as folder:
        for format in exports.values():
            format.must_be_ready()
        sampler = Sampler(checkpoint.load_model(model), grid, guidance)
        differences, nfe = {}, 0
        for name, format in exports.items():
            file = folder / format.file
            with quiet():
                with failures_of(name):
                    format.write(sampler, file, model)
                    exported = failures_of(name)(format.read(file, model))
                differences[format.file], nfe = proof.difference(sampler, exported)
            if not differences[format.file] <= proof.LIMIT:
                raise UserError(
                    f"the format {name} does not make fewstep's samples: they differ by "
                    f"{differences[format.file]:.1e} of their size, and rounding explains {proof.LIMIT:g}; "
                    f"nothing was written to {out}. Leave {name} out of the formats"
                )
        told = description.facts(
            checkpoint.load_config(model),
            grid,
            guidance=guidance,
            nfe=nfe,
            digest=checkpoint.model_digest(model),
            differences=differences,
        )
        (folder / "fewstep.json").write_text(json.dumps(told, indent=1) + "\n")
        text = description.readme(model.resolve().name, told, list(exports.values()), sampler)
        (folder / "README.md").write_text(text)
    return differences


@contextmanager
def failures_of(name: str) -> Iterator[None]:
    """Turn what the library of a format raises, say about an operator that it lacks, into a UserError."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # libraries raise whatever an operator that they lack leads to
        raise UserError(f"the format {name} can't hold this sampler: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what torch says to its own developers while it exports."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)
