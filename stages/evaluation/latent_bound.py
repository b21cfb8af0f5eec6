"""What bounds the distance of decoded images to the data, from what prepare and a pretraining measured."""

import math

from fewstep import codec
from fewstep.metrics.latent_bound import LatentBound
from stages.run.job import Job
from stages.settings.fields import method_of

FITTING = {"path": "linear", "prediction": "velocity", "checkpoint": None}
"""Settings of a model of pretrain whose held-out loss its method may make that of its velocity."""


def latent_bound(job: Job) -> LatentBound | None:
    """Return the bound's terms for the model that others are compared with.

    None without a codec, or where a loss or an error is not what it asks for.
    """
    if (decoder := codec.of_prepared(job.inputs["data"])) is None:
        return None
    data, teacher = job.manifests["data"]["facts"], job.manifests["reference"]
    if teacher["stage"] != "pretrain" or data["codec"]["rmse"] is None:
        return None
    settings = teacher["config"]
    if any(settings[name] != value for name, value in FITTING.items()):
        return None
    if not method_of(settings["method"]).velocity_loss:
        return None
    return LatentBound.of(
        rmse=data["codec"]["rmse"],
        image_numbers=math.prod(decoder.image_shape(data["shape"])),
        stretch=data["codec"]["stretch"],
        loss=teacher["facts"]["held_out_loss"],
        latent_numbers=math.prod(data["shape"]),
    )
