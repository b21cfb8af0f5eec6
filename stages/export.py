"""Export: a model's sampler as files that other libraries load, each read back and compared."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.files import flush_below, remove, written_whole
from fewstep.lazy import lazy_imports
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.exports import ExportSettings, wrong_exports
from stages.settings.params import Params

with lazy_imports():
    from fewstep import checkpoint, model_grids
    from fewstep.exporting import folder, proof, sampler
    from stages.searching import grids_file

if TYPE_CHECKING:
    from fewstep.grids import Grid

VERSION = 1  # bump when the numbers this stage writes change


class Config(ExportSettings):
    """Settings of the export stage; its key is the model's name; with what can be exported."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads, and the folders of the user's."""
    found = {"model": f"artifacts/models/{key}"} | config.folders()
    return found | ({"search": f"artifacts/search/{key}"} if config.searched else {})


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/export/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: each key must be a model that its formats can hold."""
    return wrong_exports(params)


def run(config: Config, job: Job) -> None:
    """Write each format, read it back and compare it; then fewstep.json and README.md."""
    source = job.inputs["model"]
    exports = folder.ready([format.named() for format in config.formats])
    sampled = sampler.ExportedSampler(checkpoint.load_model(source), steps_of(config, job), config.guidance)
    proved = {}
    job.progress.start("export", len(exports), unit="format")
    for name, format in exports.items():
        note = job.scratch / f"{name}.json"
        known, file = json.loads(note.read_text()) if note.exists() else {}, job.out / format.file
        if known.get("files") != files_of(file):  # unlike a format that was whole before a kill
            remove(file)
            found = folder.add(sampled, name, format, job.out, source)
            flush_below(job.out)
            known = {"proof": asdict(found), "files": files_of(file)}
            with written_whole(note) as temporary:
                temporary.write_text(json.dumps(known))
        proved[format.file] = proof.Proof(**known["proof"])
        job.progress.advance()
    folder.describe(sampled, exports, proved, job.out, source)
    job.facts["nfe"] = next(iter(proved.values())).nfe
    job.facts["relative_difference"] = {file: found.difference for file, found in proved.items()}
    job.facts["bytes"] = {file: sum(files_of(job.out / file).values()) for file in proved}


def steps_of(config: Config, job: Job) -> Grid:
    """Return the grid of the sampler."""
    source = job.inputs["model"]
    if not config.searched:
        known = checkpoint.load_config(source)
        return model_grids.choose(known, config.steps, None, config.solver, config.guidance)
    found = grids_file.read_grids(job.inputs["search"])
    grid = found.grid(config.steps or min(found.grids), asked_by=f"export@{job.key}")
    grid.must_suit(model=checkpoint.model_digest(source), guidance=config.guidance)
    return grid


def files_of(path: Path) -> dict[str, int]:
    """Return the bytes of a format's file, of others of its name and more, or of all files of its folder."""
    tops = (path, *path.parent.glob(f"{path.name}.*"))  # such as sampler.onnx.data, of large models
    files = sorted(file for top in tops for file in (top, *top.rglob("*")) if file.is_file())
    return {str(file.relative_to(path.parent)): file.stat().st_size for file in files}


if __name__ == "__main__":
    main(Path(__file__))
