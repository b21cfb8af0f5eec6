"""The chain on a toy.

The whole chain on points in the plane instead of images: a teacher, pairs, a straighter flow, searched
timesteps, students of 4 and 1 network calls, and their evaluation. It works in a clone of this checkout,
which stays as it is, and takes about two minutes:

    python docs/examples/toy_chain.py

A number behind it, such as `20`, sets the steps of each training, for a quick look.
"""

# ## A clone with settings of its own
#
# The chain's settings are one file, `params.yaml`, so another chain is another file. A clone keeps its
# results apart from yours. (`fewstep run --set` makes such clones for you when you change a few settings.)

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
project = Path(__file__).resolve().parents[2]
clone = Path(tempfile.mkdtemp(prefix="toy-chain-")) / "fewstep"
subprocess.run(["git", "clone", "--quiet", project, clone], check=True)

# ## The settings
#
# One section a stage. `straight` follows the teacher's trajectories on the timesteps that `search` found;
# `direct` learns the pairs of `couple` and starts from the straighter flow of `reflow`. [Choose a
# method](../choose-a-method.md) says which students there are.


def train(steps, learning_rate):
    return {"steps": steps, "batch": 256, "learning_rate": learning_rate, "decay": "cosine", "ema": 0.99}


teacher = {"init": "base", "teacher": "base"}
settings = {
    "seed": 0,
    "adopt": {},
    "export": {},
    "prepare": {"source": "two_moons", "source_options": {"count": 4000}},
    "nets": {},
    "pretrain": {
        "base": {
            "method": "flow_matching",
            "model": {"name": "mlp", "width": 64, "depth": 3},
            "train": train(steps, 3e-3),
        }
    },
    "couple": {"round1": {"model": "base", "pairs": 2000, "solver": "heun", "nfe": 32}},
    "reflow": {"round1": {"init": "base", "method": "reflow", "train": train(steps // 2, 1e-3)}},
    "search": {
        "base": {
            "teacher": "base",
            "method": {"name": "bellman", "fine_steps": 48, "fine_solver": "heun"},
            "budgets": [1, 4],
            "report_noises": 512,
        }
    },
    "trajectories": {"base": {"samples": 2000}},
    "distill": {
        "straight": teacher
        | {
            "method": "straighten",
            "train_on": "trajectories/base",
            "nfe": 4,
            "train": train(steps // 2, 1e-3),
        },
        "direct": teacher
        | {"init": "round1", "method": "endpoint", "train_on": "couple/round1", "nfe": 1}
        | {"train": train(steps // 2, 1e-3)},
    },
    "evaluate": {"samples": 500, "blocks": 4, "nfe": [1, 4, 32]},
}
(clone / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

# ## The run
#
# DVC reads the graph from `dvc.yaml` and runs each stage once. A second `dvc repro` there does nothing; after
# a kill it resumes.

environment = os.environ | {"FEWSTEP_TRACKING": "off"}  # leave this one out to see the losses in MLflow
subprocess.run(["dvc", "repro", "--quiet"], cwd=clone, env=environment, check=True)

# ## The result
#
# `fd_clf` is the distance to the data; [how numbers are measured](../evaluation-protocol.md) explains it.

rows = json.loads((clone / "artifacts/evaluate/metrics.json").read_text())["rows"]
print(f"{'model':28} NFE   fd_clf")
for row in rows:
    print(f"{row['name']:28} {row['nfe']:3} {row['fd_clf']:8.3f} ± {row['fd_clf_se']:.3f}")
print(f"Report: {clone / 'artifacts/evaluate/report.html'}")

# ```text
# model                        NFE   fd_clf
# base@16/fine                  16    0.025 ± 0.031
# base@32/fine                  32    0.020 ± 0.028
# base@64/fine                  64    0.012 ± 0.026
# base@128/fine                128    0.011 ± 0.025
# base@256/fine                256    0.011 ± 0.025
# base@1                         1   67.857 ± 0.275
# base@4                         4    3.540 ± 0.323
# base@32                       32    0.029 ± 0.008
# base@4/bellman                 4    3.046 ± 0.292
# round1@1                       1    0.013 ± 0.021
# round1@4                       4    0.017 ± 0.018
# round1@32                     32    0.022 ± 0.022
# straight@4                     4    0.010 ± 0.024
# direct@1                       1    0.022 ± 0.026
# ```
#
# At 4 NFE the teacher is far from the data, and both students are as near as the teacher at 32 NFE,
# within the standard errors.
#
# ## A picture
#
# A model directory is all that sampling needs. All models start from the same noise here.
#
# ![The teacher at 32 and at 4 NFE, and both students, on two moons](../pictures/toy_chain.png)

import matplotlib.pyplot as plt
import torch

from fewstep import grids, randomness
from fewstep.checkpoint import load_model
from fewstep.flow import as_flow
from fewstep.solvers import integrate

noise = randomness.noises("toy", randomness.keys_of(0, 0, 2000), (2,))
figure, panels = plt.subplots(1, 4, figsize=(12, 2.9), sharex=True, sharey=True, layout="constrained")
shown = [("base", 32), ("base", 4), ("straight", 4), ("direct", 1)]
for panel, (name, nfe) in zip(panels, shown, strict=True):
    model = load_model(clone / "artifacts/models" / name).eval()
    with torch.no_grad():
        samples = integrate(as_flow(model), noise, model.config.grid or grids.uniform(nfe))
    panel.scatter(*samples.x.T, s=3)
    panel.set(
        title=f"{name}, {samples.nfe} NFE", aspect="equal", xticks=[], yticks=[], xlim=(-4, 4), ylim=(-3, 3)
    )
figure.savefig("toy_chain.png", dpi=110)
