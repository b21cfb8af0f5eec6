"""A model of your own through the chain.

You have a network that another code base trained, and want a student of it that needs few calls. Here the
network predicts v on the cosine path of diffusion models (Salimans and Ho 2022, arXiv 2202.00512), and was
trained on points that you have in an `.npz` file. The chain adopts it, searches its timesteps, trains a
student of 4 network calls, and measures both. It works in a clone of this checkout, which stays as it is:

    python docs/examples/own_model.py

A number behind it, such as `20`, sets the steps of each training, for a quick look.
"""

# ## A clone, and your data in it

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
project = Path(__file__).resolve().parents[2]
clone = Path(tempfile.mkdtemp(prefix="own-model-")) / "fewstep"
subprocess.run(["git", "clone", "--quiet", project, clone], check=True)

random = np.random.default_rng(0)
angle = 3 * np.pi * np.sqrt(random.uniform(size=4000))
spiral = (angle / 5)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
points = (spiral + 0.05 * random.standard_normal(spiral.shape)).astype(np.float32)
np.savez(clone / "data" / "spiral.npz", x=points)

# ## The architecture is a file
#
# A model directory is weights and JSON, never a pickle. So the code of the network is a file of
# `fewstep/models/`: a dataclass with the network's options, whose `build` defines its class and returns it.
# Settings read this file without torch, so it loads torch at first use.

ARCHITECTURE = '''
"""Plain: fully connected layers that see the time."""

from dataclasses import dataclass

from fewstep.lazy import lazy_imports

with lazy_imports():
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Settings of the network."""

    width: int = 128

    def build(self, shape, classes):
        """Return the network for points of `shape`."""
        size, width = shape[0], self.width

        class Network(nn.Sequential):
            def forward(self, x, t, label=None):
                turns = t[:, None] * torch.arange(1, 5, device=t.device) * torch.pi
                return super().forward(torch.cat([x, turns.sin(), turns.cos()], dim=1))

        wide = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.SiLU())]
        return Network(nn.Linear(size + 8, width), nn.SiLU(), *wide, nn.Linear(width, size))
'''
(clone / "fewstep/models/plain.py").write_text(ARCHITECTURE.lstrip())
sys.path.insert(0, str(clone))  # from here on, fewstep is the clone's, with your file in it

# ## Your training
#
# It stands for whatever made your weights. The network is trained to
# predict `v = a(t) · noise − b(t) · data` at `x_t = a(t) · data + b(t) · noise`.

import torch

from fewstep.checkpoint import save_model
from fewstep.model import ModelConfig, build

config = ModelConfig(architecture={"name": "plain"}, shape=(2,), prediction="v", path="cosine")
model = build(config, seed=0)
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
torch.manual_seed(0)
for _ in range(steps):
    data = torch.from_numpy(points)[torch.randint(len(points), (256,))]
    noise, t = torch.randn_like(data), torch.rand(len(data))
    a, b = torch.sin(torch.pi / 2 * t)[:, None], torch.cos(torch.pi / 2 * t)[:, None]
    loss = (model(a * data + b * noise, t) - (a * noise - b * data)).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
save_model(clone / "data" / "mine", model)

# If your weights are a state dictionary already, `model.network.load_state_dict(weights)` takes the place of
# the loop. [Bring your own model](../bring-your-own-model.md) lists paths, predictions and other time axes.
#
# ## The chain takes it from there
#
# `checkpoint` names the model directory: the chain adopts it instead of training a teacher. Without
# it, the settings beside it would train your architecture from scratch. There are no pairs and no reflow in
# this chain, so these sections are empty.

train = {"steps": steps // 2, "batch": 256, "learning_rate": 5e-4, "decay": "cosine", "ema": 0.99}
settings = {
    "seed": 0,
    "adopt": {},
    "export": {},
    "prepare": {"source": "data/spiral.npz"},
    "nets": {},
    "pretrain": {
        "base": {
            "method": "flow_matching",
            "model": {"name": "plain"},
            "train": train,
            "checkpoint": "data/mine",
        }
    },
    "couple": {},
    "reflow": {},
    "search": {
        "base": {
            "teacher": "base",
            "method": {"name": "bellman", "fine_steps": 48, "fine_solver": "heun"},
            "budgets": [4],
            "report_noises": 512,
        }
    },
    "trajectories": {"base": {"samples": 2000}},
    "distill": {
        "mine-4": {
            "method": "straighten",
            "init": "base",
            "teacher": "base",
            "train_on": "trajectories/base",
            "nfe": 4,
            "train": train,
        }
    },
    "evaluate": {"samples": 500, "blocks": 4, "nfe": [4, 32]},
}
(clone / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
environment = os.environ | {"FEWSTEP_TRACKING": "off"}
subprocess.run(["dvc", "repro", "--quiet"], cwd=clone, env=environment, check=True)

# ## The result
#
# The student has your architecture, path and prediction, and a grid of its own: `artifacts/models/mine-4`
# loads into your code with `load_state_dict`, and is sampled with Euler steps on the times in its
# `config.json`.

rows = json.loads((clone / "artifacts/evaluate/metrics.json").read_text())["rows"]
print(f"{'model':28} NFE   fd_clf   distance from the teacher's map")
for row in rows:
    away = row["endpoint_rmse"]  # None for the fine runs, which are the map
    print(f"{row['name']:28} {row['nfe']:3} {row['fd_clf']:8.3f}   {'-' if away is None else f'{away:.3f}'}")
print(f"Student: {clone / 'artifacts/models/mine-4'}")

# ```text
# model                        NFE   fd_clf   distance from the teacher's map
# base@16/fine                  16    0.027   -
# base@32/fine                  32    0.028   -
# base@4                         4    1.479   0.240
# base@32                       32    0.033   0.054
# base@4/bellman                 4    1.287   0.225
# mine-4@4                       4    0.029   0.023
# ```
#
# The student of 4 NFE learned from trajectories of 48 Heun steps, so it is as near to the data as 32 Euler
# steps of its teacher, and nearer to its map.
#
# ![Samples of the adopted model at 32 and at 4 NFE, and of its student at 4 NFE](../pictures/own_model.png)

import matplotlib.pyplot as plt

from fewstep import grids, randomness
from fewstep.checkpoint import load_model
from fewstep.flow import as_flow
from fewstep.solvers import integrate

noise = randomness.noises("own model", randomness.keys_of(0, 0, 2000), (2,))
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for panel, (name, nfe) in zip(panels, [("base", 32), ("base", 4), ("mine-4", 4)], strict=True):
    sampled = load_model(clone / "artifacts/models" / name).eval()
    flow = as_flow(sampled)
    with torch.no_grad():
        samples = integrate(flow, noise, sampled.config.grid or grids.uniform(nfe, start=flow.t_start))
    panel.scatter(*samples.x.T, s=3)
    panel.set(title=f"{name}, {samples.nfe} NFE", xticks=[], yticks=[], xlim=(-2.4, 2.4), ylim=(-2.4, 2.4))
figure.savefig("own_model.png", dpi=110)
