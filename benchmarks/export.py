"""An exported student in ONNX Runtime against the same student in eager PyTorch, one thread.

Run `python -m benchmarks.export MODEL_FOLDER [batch] [rounds]` for a student with a grid of its own. Both
sides sample the same noise, in batches of 64 unless told otherwise, and take turns (20 rounds). A time is the
median of the rounds, on the clock of the processor. Differences and sizes of the files are printed too.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from fewstep import checkpoint
from fewstep.exporting import folder
from fewstep.exporting.sampler import ExportedSampler


def main(model: Path, batch: int = 64, rounds: int = 20) -> None:
    torch.set_num_threads(1)
    student = checkpoint.load_model(model)
    assert student.config.grid is not None, "this model is no student with a grid of its own"
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        for name, difference in folder.export(model, student.config.grid, out).items():
            print(f"{name}: {(out / name).stat().st_size:,} bytes, relative difference {difference:.1e}")
        one_thread = onnxruntime.SessionOptions()
        one_thread.intra_op_num_threads = one_thread.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            out / "sampler.onnx", one_thread, providers=["CPUExecutionProvider"]
        )
    sampler = ExportedSampler(student, student.config.grid, 1.0)
    inputs = sampler.inputs(batch)
    arrays: dict[str, np.ndarray] = {name: value.numpy() for name, value in inputs.items()}

    def eager() -> None:
        with torch.inference_mode():
            sampler(**inputs)

    def runtime() -> None:
        session.run(None, arrays)

    taken: dict[Callable[[], None], list[float]] = {eager: [], runtime: []}
    for turn in range(rounds + 1):
        for work, times in taken.items():
            began = time.process_time()
            work()
            if turn:  # the first one warms up
                times.append(time.process_time() - began)
    ours, theirs = (1000 * statistics.median(times) / batch for times in taken.values())
    print(
        f"{model.name}, batches of {batch}: ONNX Runtime {theirs:.3f} ms a sample, eager PyTorch {ours:.3f}; "
        f"ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
