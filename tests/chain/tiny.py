"""The settings of params.yaml, shrunk so that the whole chain takes seconds.

Training settings are replaced, not scaled, so that tuning params.yaml leaves the golden numbers alone.
"""

from typing import Any

from students import ENDPOINT, STRAIGHT


def train(steps: int, learning_rate: float, batch: int = 32) -> dict[str, Any]:
    return {"steps": steps, "batch": batch, "learning_rate": learning_rate, "warmup": 2, "ema": 0.9}


def shrink(params: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of params.yaml with three students, and little work in each stage."""
    search = {"method": {"name": "bellman", "fine_steps": 16, "noises": 32}, "budgets": [1, 2, 4]}
    on_policy = {"method": "dmd", "init": "boss-4", "teacher": "base", "train_on": "prepare"}
    return {
        "seed": 0,
        "prepare": {"source": "digits", "held_out": 0.25},
        "nets": {"metric": {"steps": 40}, "monitor": {"steps": 10}},
        "pretrain": {
            "base": params["pretrain"]["base"]
            | {"model": {"name": "unet", "width": 8, "multipliers": [1, 2]}, "train": train(60, 4e-3, 64)}
        },
        "adopt": {},
        "couple": {
            "round1": {
                "model": "base",
                "pairs": 512,
                "held_out": 64,
                "pairs_per_shard": 64,
                "solver": "heun",
                "nfe": 8,
            }
        },
        "reflow": {"round1": params["reflow"]["round1"] | {"train": train(20, 1e-3, 64)}},
        "search": {model: search | {"teacher": model, "report_noises": 32} for model in ("base", "round1")},
        "trajectories": {"base": {"samples": 256, "held_out": 64}},
        "distill": {
            "boss-4": STRAIGHT | {"train": train(10, 1e-3)},
            "one-step": ENDPOINT | {"teacher": "round1", "train": train(10, 1e-3)},
            "finished-4": on_policy | {"nfe": 4, "train": train(4, 2e-4) | {"betas": [0.0, 0.99]}},
        },
        "export": {},
        "evaluate": {"samples": 60, "blocks": 2, "nfe": [1, 4], "reference_nfe": 8},
    }
