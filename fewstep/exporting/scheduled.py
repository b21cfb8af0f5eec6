"""A network of diffusers that takes the steps of a grid by a scheduler of diffusers: written, read, called.

The scheduler is told the grid's sigmas, which it can't store: they are in `sampling.json` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils.epy import lazy_imports

from fewstep import paths
from fewstep.conditions import LABEL
from fewstep.errors import UserError
from fewstep.exporting import description
from fewstep.exports import SHOWN, given_in_torch
from fewstep.extras import brought_by

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewstep.exporting.sampler import Sampler
    from fewstep.model import ModelConfig

with lazy_imports():
    import torch

    from fewstep.foreign import library
with lazy_imports(error_callback=brought_by("foreign", what="a format of diffusers", library="diffusers")):
    import diffusers

SCHEDULER, SAMPLING = "scheduler", "sampling.json"
PACKING = ("FluxTransformer2DModel",)
"""Networks of which the call is long, as their samples are packed: it is left to the pipeline."""
PREDICTIONS = {"noise": "epsilon", "v": "v_prediction"}
"""What a scheduler of betas calls the predictions that it takes."""
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
    sigmas = json.load(file)["sigmas"]

# A pipeline gets {component}=network and scheduler=scheduler, and is called with sigmas=sigmas and
# guidance_scale={guidance:g}, if it takes sigmas.
"""
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


def must_be_possible(sampler: Sampler) -> None:
    """Refuse a sampler that a scheduler of diffusers can't follow.

    Raises:
        UserError: it is no network of diffusers, or its path, prediction, solver or guidance is another.
    """
    config, grid = sampler.model.config, sampler.grid
    why = None
    if config.architecture["name"] != "diffusers":
        why = f"the model's architecture is {config.architecture['name']}, no network of diffusers"
    elif grid.solver != "euler" or config.velocity_until == "any":
        why = f"it takes Euler steps of a velocity at one time, not those of {grid.solver} or of a flow map"
    elif config.calls_per_velocity(sampler.flow.guidance) != 1:
        why = "pipelines guide by themselves; export guidance 1, and set guidance_scale there"
    elif table_of(config) is not None:
        if config.prediction not in PREDICTIONS:
            why = f"EulerDiscreteScheduler takes no network that predicts {config.prediction}"
        elif grid.times[0] == 0:
            why = "its first sigma is infinite, as the noise is pure there"
    elif (config.path, config.prediction, config.time) != ("linear", "reverse_velocity", "1-t"):
        why = f"no scheduler has the path {config.path} with the prediction {config.prediction}"
    if why is not None:
        raise UserError(f"a format of diffusers can't hold this sampler: {why}. Take pt2 or onnx")


def table_of(config: ModelConfig) -> paths.Table | None:
    """Return the table of noise levels of a model, if it has one and is called with its indices."""
    path = paths.get(config.path)
    if not isinstance(path, paths.Table) or config.time != "1-t":
        return None
    return path if config.time_scale == path.num_train_timesteps - 1 else None


def component_of(sampler: Sampler) -> str:
    """Return what pipelines call the network: unet or transformer."""
    return component_named(sampler.model.config.architecture["network"])


def component_named(network: str) -> str:
    """Return what pipelines call a network of a class: unet or transformer."""
    return "transformer" if "Transformer" in network else "unet"


def network_of(sampler: Sampler) -> Any:
    """Return the network as its library made it."""
    return sampler.model.network.network


def class_in(config: Path) -> str:
    """Return the class that a config.json, or a scheduler_config.json, of diffusers is of."""
    return json.loads(config.read_text())["_class_name"]


def write(sampler: Sampler, folder: Path) -> None:
    """Write the scheduler and what it must be told."""
    config, table = sampler.model.config, table_of(sampler.model.config)
    scheduler: Any
    if table is None:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=round(config.time_scale), shift=1.0
        )
    else:
        scheduler = diffusers.EulerDiscreteScheduler(
            num_train_timesteps=table.num_train_timesteps,
            beta_schedule=table.beta_schedule,
            beta_start=table.beta_start,
            beta_end=table.beta_end,
            rescale_betas_zero_snr=table.rescale_betas_zero_snr,
            prediction_type=PREDICTIONS[config.prediction],
            timestep_spacing="trailing",  # then noise is scaled by the first sigma, as it is here
        )
    scheduler.save_pretrained(folder / SCHEDULER)
    told = {
        "sigmas": description.sigmas(sampler.grid)[:-1] if table is None else ratios(sampler),
        "in_range": ends_in_range(sampler),
        "classes": config.classes,
        "guidance": guidance_of(sampler) if config.guidance_input else None,
    }
    (folder / SAMPLING).write_text(json.dumps(told, indent=1) + "\n")


def guidance_of(sampler: Sampler) -> float:
    """Return the guidance that a network is given, or that a pipeline is told."""
    config, asked = sampler.model.config, sampler.flow.guidance
    return config.guidance_shown(asked) if config.guidance_input else asked


def ratios(sampler: Sampler) -> list[float]:
    """Return the ratio of noise to data at each timestep, the last 0 included."""
    return [(1 - t) / t for t in sampler.grid.times]


def reader(network: nn.Module, folder: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return a function from named inputs to what a network samples by the scheduler of a folder."""
    told = json.loads((folder / SAMPLING).read_text())
    kind = class_in(folder / SCHEDULER / "scheduler_config.json")
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


def call(sampler: Sampler, folder: str, made: str) -> str:
    """Return Python that samples a network by the scheduler of a folder.

    Args:
        sampler: What was written.
        folder: Its name.
        made: Lines that make the `network`.
    """
    config, table = sampler.model.config, table_of(sampler.model.config)
    network = config.architecture["network"]
    return (CALL if network in PACKING else CALL + LOOP).format(
        network=network,
        scheduler="FlowMatchEulerDiscreteScheduler" if table is None else "EulerDiscreteScheduler",
        made=made,
        folder=folder,
        component=component_of(sampler),
        guidance=guidance_of(sampler),
        size=(SHOWN, *config.shape),
        given="".join(f"{name} = {value}\n" for name, value in given_in_torch(config).items()),
        scaled="" if table is None else " * scheduler.init_noise_sigma",
        seen=seen(config, "x" if table is None else "scheduler.scale_model_input(x, t)"),
        arguments=arguments(config),
        channels=f"[:, :{config.shape[0]}]",
        clamp=".clamp(-1, 1)" if ends_in_range(sampler) else "",
    )


def ends_in_range(sampler: Sampler) -> bool:
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
