"""The time that saving takes from a training, for networks of several sizes.

Run `python -m benchmarks.save_time [millions of parameters ...]` (20). A fully connected network is trained
until its fourth save, or for 100 s, at FEWSTEP_CHECKPOINT_SECONDS=20, with one thread, in a temporary folder
(TMPDIR says where). The time taken is what the loop waits for copies, and what steps take longer while a file
is written; it is given as a share of the time from one save to the next. 200 M parameters take 8 GB of
memory and 3 GB of disk.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from fewstep import randomness
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.progress import SILENT
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training
from fewstep.training.saver import Saver
from fewstep.training.watch import Watch

SHAPE, DEPTH, BATCH, SAVES, SECONDS = (64,), 4, 8, 4, 100


def measure(millions: float) -> None:
    """Train, and print what saving took."""
    width = round((millions * 1e6 / (4 * DEPTH)) ** 0.5)
    config = ModelConfig(architecture={"name": "mlp", "width": width, "depth": DEPTH}, shape=SHAPE)
    settings = TrainSettings(steps=1_000_000, batch=BATCH)
    model = build(config, seed=0)
    training = Training(FlowMatching(), model, lambda name: model, settings, 0, torch.device("cpu"))
    data = randomness.noises("benchmark", randomness.keys_of(0, 0, BATCH), SHAPE)
    steps: dict[bool, list[float]] = {True: [], False: []}
    waited = 0.0
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        file = Path(folder) / "train_state.safetensors"
        with Saver(file, training, Watch(None, training, SILENT)) as saver:
            saves, last = 0, saver.saved_at
            while (saves < SAVES and time.perf_counter() < began + SECONDS) or saver.writing:
                before = time.perf_counter()
                saver.before_step()
                saves, last = saves + (saver.saved_at != last), saver.saved_at
                middle = time.perf_counter()
                training.take_step({"data": data}, randomness.keys_of(0, 0, BATCH))
                waited += middle - before
                steps[saver.writing].append(time.perf_counter() - middle)
        took, size = time.perf_counter() - began, file.stat().st_size
    slower = sum(steps[True]) - len(steps[True]) * median(steps[False])
    apart = saver.interval  # seconds from one save to the next
    weights = sum(p.numel() for p in training.modules["student"].parameters())
    print(
        f"{weights / 1e6:.0f} M parameters, {size / 2**20:.0f} MiB, a step of {median(steps[False]):.3f} s: "
        f"{saves} saves in {took:.0f} s; waited {waited / saves:.2f} s a save, slower steps "
        f"{slower / saves:.2f} s, {100 * (waited + slower) / saves / apart:.2f} % of the time; the saver "
        f"counted {saver.cost:.2f} s for the last, and would wait {apart:.0f} s",
        flush=True,
    )


def main(sizes: list[float]) -> None:
    """Measure each size."""
    torch.set_num_threads(1)
    for millions in sizes:
        measure(millions)


if __name__ == "__main__":
    main([float(size) for size in sys.argv[1:]] or [20.0])
