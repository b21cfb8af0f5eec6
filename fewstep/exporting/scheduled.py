"""A network of diffusers that takes the steps of a grid by a scheduler of diffusers: written, read, called.

The caller gives the scheduler the grid's sigmas, which it can't store: they are in `sampling.json` beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep import paths
from fewstep.conditions import LABEL
from fewstep.errors import UserError
from fewstep.exporting import description
from fewstep.exports import SCHEDULED, SHOWN, given_in_torch
from fewstep.lazy import brought_by, lazy_imports

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewstep.exporting.sampler import ExportedSampler
    from fewstep.model import ModelConfig

with lazy_imports():
    import torch

    from fewstep.foreign import library
    from fewstep.networks import embedding
with lazy_imports(error_callback=brought_by("foreign", what="a format of diffusers", library="diffusers")):
    import diffusers

FLOW, BETAS, EDM = "FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler", "EDMEulerScheduler"
SCHEDULER, SAMPLING = "scheduler", "sampling.json"
PACKING = ("FluxTransformer2DModel",)
"""Networks of which the call is long, as their samples are packed: it is left to the pipeline."""
RHO = 7.0
"""Of the curve between the first and the least sigma of a scheduler of EDM; its default."""
ARGUMENTS = {
    LABEL: "class_labels",
    "text": "encoder_hidden_states",
    "text_mask": "encoder_attention_mask",
    "pooled": "pooled_projections",
}
"""What networks of diffusers call conditions; some of SDXL and PixArt are in `added_cond_kwargs` instead."""
CALL = """\
import json

import torch
from diffusers import {network}, {scheduler}

{made}
scheduler = {scheduler}.from_pretrained("{folder}/scheduler")
with open("{folder}/sampling.json") as file:
    sigmas = {sigmas}
# A pipeline gets {component}=network and scheduler=scheduler, and is called with sigmas=sigmas and
# guidance_scale={guidance:g}, if it takes sigmas.
"""
LISTED = 'json.load(file)["sigmas"]'
OF_EDM = """\
torch.tensor(json.load(file)["sigmas"], dtype=torch.float64)
    # What diffusers {version} calls sigmas of this scheduler are places on its curve, 0 for sigma_max
    # and 1 for sigma_min. The sigmas themselves are those for ComfyUI, below."""
LOOP = """\
# Without a pipeline:
scheduler.set_timesteps(sigmas=sigmas)
noise = torch.randn{size}
{given}x = noise{scaled}
with torch.no_grad():
    for t in scheduler.timesteps:
        seen = {seen}
        output = network(seen, {arguments})[0]{channels}
        x = scheduler.step(output, t, x, return_dict=False)[0]
samples = x{clamp}
"""


@dataclass(frozen=True)
class Steps:
    """How a scheduler of diffusers takes the steps of a sampler."""

    scheduler: str
    """Its class."""
    options: dict[str, Any]
    """Its config."""
    sigmas: list[float]
    """Arguments of its set_timesteps."""

    @property
    def scaled(self) -> bool:
        """Whether it scales the noise, and what the network sees."""
        return self.scheduler != FLOW


def must_be_possible(sampler: ExportedSampler) -> None:
    """Refuse a sampler that a scheduler of diffusers can't follow.

    Raises:
        UserError: it is no network of diffusers, or its path, prediction, solver or guidance is another, or
            it embeds its time in a way of its own.
    """
    config, grid = sampler.model.config, sampler.grid
    if config.architecture["name"] != "diffusers":
        raise _refused(f"the model's architecture is {config.architecture['name']}, no network of diffusers")
    if grid.solver != "euler" or config.velocity_until == "any":
        raise _refused(
            f"it takes Euler steps of a velocity at one time, not those of {grid.solver} or of a flow map"
        )
    if any(isinstance(part, embedding.Timed) and part.slowed for part in sampler.model.network.modules()):
        raise _refused("its network has slow times, of which the library's class knows nothing")
    if config.calls_per_velocity(sampler.guidance) != 1:
        raise _refused("pipelines guide by themselves; export guidance 1, and set guidance_scale there")
    steps_of(sampler)


def steps_of(sampler: ExportedSampler) -> Steps:
    """Return how a scheduler of diffusers takes the steps of a sampler.

    Raises:
        UserError: if none does.
    """
    config = sampler.model.config
    path, told = paths.get(config.path), (config.time, config.time_scale)
    if isinstance(path, paths.BetaTable) and told == ("1-t", path.num_train_timesteps - 1):
        return _of_a_table(sampler, path)
    if isinstance(path, paths.Edm) and told == ("log_sigma", 0.25):
        return _of_edm(sampler, path)
    if path == paths.Linear() and (config.prediction, config.time) == ("reverse_velocity", "1-t"):
        options = {"num_train_timesteps": round(config.time_scale), "shift": 1.0}
        return Steps(FLOW, options, description.sigmas(sampler.grid)[:-1])
    raise _refused(f"no scheduler has the path {config.path} with the prediction {config.prediction}")


def _of_a_table(sampler: ExportedSampler, path: paths.BetaTable) -> Steps:
    if sampler.grid.times[0] == 0:
        raise _refused("its first sigma is infinite, as the noise is pure there")
    options = {
        "num_train_timesteps": path.num_train_timesteps,
        "beta_schedule": path.beta_schedule,
        "beta_start": path.beta_start,
        "beta_end": path.beta_end,
        "rescale_betas_zero_snr": path.rescale_betas_zero_snr,
        "prediction_type": _prediction(sampler, BETAS, SCHEDULED["table"]),
        "timestep_spacing": "trailing",  # then noise is scaled by the first sigma, as it is here
        "steps_offset": 1,  # of another spacing; pipelines warn of any other number
    }
    return Steps(BETAS, options, ratios(sampler))


def _of_edm(sampler: ExportedSampler, path: paths.Edm) -> Steps:
    """Return the steps of EDMEulerScheduler, which takes places on its curve, from 0 to 1, for sigmas.

    It scales noise by sqrt(sigma_max^2 + 1), so its sigma_max is that with which this is the first sigma.
    """
    levels = ratios(sampler)[:-1]
    if levels[0] <= 1:
        raise _refused(f"{EDM} starts from a sigma above 1, and the grid from {levels[0]:g}")
    most = math.sqrt(levels[0] ** 2 - 1)
    options = {
        "sigma_min": path.sigma_min,
        "sigma_max": most,
        "sigma_data": path.sigma_data,
        "prediction_type": _prediction(sampler, EDM, SCHEDULED["edm"]),
        "rho": RHO,
    }
    start, end, *roots = (level ** (1 / RHO) for level in (most, path.sigma_min, *levels))
    return Steps(EDM, options, [(start - root) / (start - end) for root in roots])


def _prediction(sampler: ExportedSampler, scheduler: str, known: dict[str, str]) -> str:
    """Return what a scheduler calls the prediction of the network."""
    prediction = sampler.model.config.prediction
    if prediction not in known:
        raise _refused(f"{scheduler} takes no network that predicts {prediction}")
    return known[prediction]


def _refused(why: str) -> UserError:
    return UserError(f"a format of diffusers can't hold this sampler: {why}. Take pt2 or onnx")


def component_of(sampler: ExportedSampler) -> str:
    """Return what pipelines call the network: unet or transformer."""
    return component_named(sampler.model.config.architecture["network"])


def component_named(network: str) -> str:
    """Return what pipelines call a network of a class: unet or transformer."""
    return "transformer" if "Transformer" in network else "unet"


def network_of(sampler: ExportedSampler) -> Any:
    """Return the network as its library made it."""
    return sampler.model.network.network


def class_in(config: Path) -> str:
    """Return the class that a config.json, or a scheduler_config.json, of diffusers is of."""
    return json.loads(config.read_text())["_class_name"]


def write(sampler: ExportedSampler, folder: Path) -> None:
    """Write the scheduler and the arguments that it needs."""
    config, steps = sampler.model.config, steps_of(sampler)
    getattr(diffusers, steps.scheduler)(**steps.options).save_pretrained(folder / SCHEDULER)
    told = {
        "steps": sampler.grid.steps,
        "sigmas": steps.sigmas,
        "in_range": ends_in_range(sampler),
        "classes": config.classes,
        "guidance": guidance_of(sampler) if config.guidance_input else None,
    }
    (folder / SAMPLING).write_text(json.dumps(told, indent=1) + "\n")


def guidance_of(sampler: ExportedSampler) -> float:
    """Return the guidance that a network or a pipeline is given."""
    config, asked = sampler.model.config, sampler.guidance
    return config.guidance_shown(asked) if config.guidance_input else asked


def ratios(sampler: ExportedSampler) -> list[float]:
    """Return the ratio of noise to data at each timestep, the last 0 included."""
    return [(1 - t) / t for t in sampler.grid.times]


def told_to(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the arguments of a folder's scheduler, and their class."""
    told = json.loads((folder / SAMPLING).read_text())
    kind = class_in(folder / SCHEDULER / "scheduler_config.json")
    if kind == EDM:
        told["sigmas"] = torch.tensor(told["sigmas"], dtype=torch.float64)
    return told, kind


def reader(network: nn.Module, folder: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return a function from named inputs to what a network samples by the scheduler of a folder."""
    told, kind = told_to(folder)
    scheduler = getattr(diffusers, kind).from_pretrained(folder / SCHEDULER)
    asked = library.adapter_of(type(network).__name__)(network, told["classes"])

    @torch.no_grad()
    def sample(inputs: dict[str, Tensor]) -> Tensor:
        given = dict(inputs)
        x = given.pop("noise")
        if told["guidance"] is not None:
            given["guidance"] = x.new_full((x.shape[0],), told["guidance"])
        scheduler.set_timesteps(sigmas=told["sigmas"])
        scaled = hasattr(scheduler, "scale_model_input")
        x = x * scheduler.init_noise_sigma if scaled else x
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if scaled else x
            x = scheduler.step(asked(seen, t.expand(x.shape[0]), **given), t, x, return_dict=False)[0]
        return x.clamp(-1, 1) if told["in_range"] else x

    return sample


def call(sampler: ExportedSampler, folder: str, made: str) -> str:
    """Return Python that samples a network by the scheduler of a folder.

    Args:
        sampler: What was written.
        folder: Its name.
        made: Lines that make the `network`.
    """
    config, steps = sampler.model.config, steps_of(sampler)
    network = config.architecture["network"]
    return (CALL if network in PACKING else CALL + LOOP).format(
        network=network,
        scheduler=steps.scheduler,
        sigmas=lines_of_sigmas(steps),
        made=made,
        folder=folder,
        component=component_of(sampler),
        guidance=guidance_of(sampler),
        size=(SHOWN, *config.shape),
        given="".join(f"{name} = {value}\n" for name, value in given_in_torch(config).items()),
        scaled=" * scheduler.init_noise_sigma" if steps.scaled else "",
        seen=seen(config, "scheduler.scale_model_input(x, t)" if steps.scaled else "x"),
        arguments=arguments(config),
        channels=f"[:, :{config.shape[0]}]",
        clamp=".clamp(-1, 1)" if ends_in_range(sampler) else "",
    )


def lines_of_sigmas(steps: Steps) -> str:
    """Return Python that makes the scheduler's arguments of the open `file`."""
    return OF_EDM.format(version=diffusers.__version__) if steps.scheduler == EDM else LISTED


def ends_in_range(sampler: ExportedSampler) -> bool:
    """Return whether the last step is clamped to [-1, 1]."""
    return sampler.flow.clamped_from is not None


def seen(config: ModelConfig, x: str) -> str:
    """Return what a network sees: the sample, and the images that it is conditioned on beside it."""
    images = sorted(name for name, shape in config.conditions.items() if len(shape) == 3)
    return f"torch.cat([{', '.join([x, *images])}], dim=1)" if images else x


def arguments(config: ModelConfig) -> str:
    """Return the arguments of a network beside the sample, as Python."""
    names = [name for name in config.condition_names if len(config.conditions.get(name, ())) != 3]
    network, added = config.architecture["network"], {}
    if network == "UNet2DConditionModel" and "pooled" in names:
        added = {"text_embeds": names.pop(names.index("pooled")), "time_ids": names.pop(names.index("sizes"))}
    elif network == "PixArtTransformer2DModel":
        for name in ("resolution", "aspect_ratio"):
            added[name] = names.pop(names.index(name)) if name in names else "None"
    said = ["timestep=t.expand(len(x))", *(f"{ARGUMENTS.get(name, name)}={name}" for name in names)]
    if added:
        said.append(f"added_cond_kwargs={{{', '.join(f'{key!r}: {value}' for key, value in added.items())}}}")
    return ", ".join([*said, "return_dict=False"])
