"""What bounds the distance of decoded images to the data, from what prepare and a pretraining measured."""

import math
from typing import Any

from fewstep import codec
from fewstep.metrics.latent_bound import LatentBound
from stages.run.job import Job

FITTING = {"path": "linear", "prediction": "velocity", "checkpoint": None}
"""Settings of a model of pretrain, and below of its method, whose held-out loss is that of its velocity."""
PLAIN = {"name": "flow_matching", "times": "uniform", "label_dropout": 0.0}


def latent_bound(job: Job) -> LatentBound | None:
    """Return the bound's terms for the model that others are compared with.

    None without a codec, or where a loss or an error is not what it asks for.
    """
    if (decoder := codec.of_prepared(job.inputs["data"])) is None:
        return None
    data, teacher = job.manifests["data"]["facts"], job.manifests["reference"]
    if teacher["stage"] != "pretrain" or data["codec"]["rmse"] is None:
        return None
    if not (has(teacher["config"], FITTING) and has(teacher["config"]["method"], PLAIN)):
        return None
    return LatentBound.of(
        rmse=data["codec"]["rmse"],
        image_numbers=math.prod(decoder.image_shape(data["shape"])),
        stretch=data["codec"]["stretch"],
        loss=teacher["facts"]["held_out_loss"],
        latent_numbers=math.prod(data["shape"]),
    )


def has(settings: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether settings have these values."""
    return all(settings[name] == value for name, value in wanted.items())
