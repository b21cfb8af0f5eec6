"""The memory of prepare, nets and evaluate, with its report, for sets of several sizes: colour images.

Run `python -m benchmarks.memory [images ...]` (2000, 8000 and 32000), with `--classes` for more than 100 and
`--side` for another one than 32. Each number is made by a process of its own, which tells the most memory it
had. What is made lies in a temporary folder: twice the bytes of the images (TMPDIR says where).
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from fewstep.checkpoint import save_model
from fewstep.metrics import features, public
from fewstep.model import ModelConfig, build
from fewstep.progress import SILENT
from fewstep.shards import Column, Shards
from stages import evaluate, nets, prepare
from stages.evaluation import yardstick
from stages.process.environment import keep_freed_memory
from stages.run.job import Job

PART = 2**22  # bytes of images that are made at a time
STEPS = 10  # of each net: more of them take longer, and no more memory
LOOKED_AT = 2**14  # of the samples, for means and covariances: more take hours, and no more memory
MODEL = {"name": "mlp", "width": 8, "depth": 1}  # its memory is not what is measured


def write_source(file: Path, images: int, classes: int, side: int) -> None:
    """Write an .npz of noisy images, each class of its own colour, without holding them all."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % classes
    colours = random.integers(0, 200, (classes, 1, 1, 3))
    shape, part = (side, side, 3), PART // (3 * side**2)
    with zipfile.ZipFile(file, "w", allowZip64=True) as whole:
        with whole.open("x.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (images, *shape)}
            np.lib.format.write_array_header_1_0(member, header)
            for start in range(0, images, part):
                own = colours[labels[start : start + part]]
                noise = random.integers(0, 56, (len(own), *shape), dtype=np.uint8)
                member.write((own.astype(np.uint8) + noise).tobytes())
        with whole.open("y.npy", "w") as member:
            np.lib.format.write_array(member, labels)


def job_of(stage: str, folder: Path, inputs: dict[str, Path]) -> Job:
    """Return the job of a stage that works in a folder."""
    out = folder / "artifacts" / stage
    out.mkdir(parents=True)
    (folder / "work" / stage).mkdir(parents=True)
    return Job(
        stage=stage,
        key=None,
        seed=0,
        inputs=inputs,
        out=out,
        scratch=folder / "work" / stage,
        result=f"{stage}.0",
        progress=SILENT,
        picture=lambda name, file: None,
    )


def run_prepare(folder: Path) -> None:
    """Prepare the images that lie there."""
    prepare.run(prepare.Config.model_validate({"source": "images.npz"}), job_of("prepare", folder, {}))


def run_nets(folder: Path) -> None:
    """Train the nets that measure, a little."""
    few = {"steps": STEPS}
    config = nets.Config.model_validate({"metric": few, "monitor": few})
    nets.run(config, job_of("nets", folder, {"data": folder / "artifacts/prepare"}))


def run_evaluate(folder: Path) -> None:
    """Evaluate a network with the weights it starts from."""
    shape = Column(Shards(folder / "artifacts/prepare/train"), "data").shape[1:]
    model = build(ModelConfig(architecture=MODEL, shape=shape), seed=0)
    save_model(folder / "artifacts/models/base", model)
    names = {
        "data": "prepare",
        "nets": "nets",
        "model base": "models/base",
        "reference": "models/base",
    }
    inputs = {name: folder / "artifacts" / place for name, place in names.items()}
    few = {"reference_solver": "euler", "reference_nfe": 1, "samples": 100, "blocks": 2}
    batch = min(100, 2**24 // math.prod(shape))
    config = evaluate.Config.model_validate({"nfe": (1,), "batch": batch, **few})
    evaluate.run(config, job_of("evaluate", folder, inputs))


STAGES = {"prepare": run_prepare, "nets": run_nets, "evaluate": run_evaluate}


def measured(stage: str, folder: Path) -> tuple[float, float]:
    """Return the peak memory in MiB and the seconds of a stage in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--stage", stage]
    environment = os.environ | {"FEWSTEP_WORKERS": "1", "PYTHONPATH": os.getcwd()}
    began = time.perf_counter()
    out = subprocess.check_output(command, text=True, cwd=folder, env=environment)
    return int(out.split()[-1]) / 1024, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=int, nargs="*", default=[2000, 8000, 32_000])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--stage", choices=tuple(STAGES))
    asked = parser.parse_args()
    if asked.stage:
        for module in (features, public, yardstick):
            module.LOOKED_AT = LOOKED_AT  # type: ignore[attr-defined]
        keep_freed_memory()  # as a stage does
        STAGES[asked.stage](Path.cwd())
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    columns = ["images", "as bytes, MiB", *(f"{stage}, MiB | its seconds" for stage in STAGES)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * (2 + 2 * len(STAGES))}")
    peaks = []
    for images in asked.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "data").mkdir()
            write_source(folder / "data/images.npz", images, asked.classes, asked.side)
            found = [measured(stage, folder) for stage in STAGES]
        peaks.append([peak for peak, _ in found])
        size = images * 3 * asked.side**2 / 2**20
        numbers = " | ".join(f"{peak:.0f} | {took:.0f}" for peak, took in found)
        print(f"| {images} | {size:.0f} | {numbers} |", flush=True)
    ratios = ", ".join(f"{last / first:.2f}" for first, last in zip(peaks[0], peaks[-1], strict=True))
    print(f"memory of the largest set over that of the smallest: {ratios}")


if __name__ == "__main__":
    main()
