"""Settings of students that start from a model themselves; those of params.yaml start from a flow map."""

import copy
from typing import Any

STRAIGHT = {
    "method": "straighten",
    "init": "base",
    "teacher": "base",
    "train_on": "trajectories/base",
    "nfe": 4,
    "train": {"steps": 200, "batch": 64, "learning_rate": 5e-4, "warmup": 20},
}
ENDPOINT = {
    "method": "endpoint",
    "init": "round1",
    "teacher": "base",
    "train_on": "couple/round1",
    "nfe": 1,
    "train": {"steps": 300, "batch": 128, "learning_rate": 7e-4, "warmup": 20},
}


def with_own_starts(params: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of params.yaml without flow maps: boss-8 and boss-4 start as straight-8 and
    straight-4, and one-step as endpoint."""
    raw = copy.deepcopy(params)
    starts = {"boss-8": "straight-8", "boss-4": "straight-4", "one-step": "endpoint"}
    made = {"straight-8": STRAIGHT | {"nfe": 8}, "straight-4": STRAIGHT, "endpoint": ENDPOINT}
    finished = {key: raw["distill"][key] | {"init": init} for key, init in starts.items()}
    raw["trajectories"]["base"]["keep"] = "timesteps"
    raw["distill"] = copy.deepcopy(made) | finished
    return raw
