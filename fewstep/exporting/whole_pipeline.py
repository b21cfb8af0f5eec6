"""A pipeline of diffusers with a student for its network: a folder that `from_pretrained` loads.

The other parts are copied from the folder of the pipeline that the network comes from, byte by byte. Nothing
in it is unpickled, and none of its code is taken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep import registry
from fewstep.errors import UserError
from fewstep.exporting import scheduled
from fewstep.foreign.formats.diffusers import NETWORK, PIPELINE, read_json
from fewstep.lazy import brought_by, lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler
    from fewstep.foreign.text_pipeline import TextPipeline

with lazy_imports():
    import torch

    from fewstep.foreign import library, text_encoders, weights
with lazy_imports(error_callback=brought_by("foreign", what="the format pipeline", library="diffusers")):
    import diffusers
    import transformers

KEPT = (".json", ".txt", ".safetensors", ".model")
"""What files of a part are copied: configs, vocabularies, weights, and the models of tokenizers."""
LIBRARIES = ("diffusers", "transformers")
INSTEAD = "take the format diffusers, of the network and its scheduler alone"


def must_fit(source: Path, sampler: ExportedSampler) -> None:
    """Refuse the folder of a pipeline that a sampler's network can't be put into.

    Raises:
        UserError: it is no folder of a pipeline, a part of it is missing, pickled or code, its network is of
            another class or for other samples, or it can't be called with the sampler's steps.
    """
    scheduled.must_be_possible(sampler)
    if scheduled.ends_in_range(sampler):
        raise UserError(f"no pipeline clamps the last step to [-1, 1], as this student does; {INSTEAD}")
    index = index_of(source)
    known = kind_of(source, index)
    if missing := set(sampler.model.config.condition_names) - known.named.keys() - set(known.made):
        raise UserError(f"a {index['_class_name']} gives its network no {min(missing)}; {INSTEAD}")
    component, ours = scheduled.component_of(sampler), sampler.model.config.architecture
    if component not in dict(parts(source, index)):
        raise UserError(
            f"the pipeline {source} has no {component}, which the student is; name the pipeline "
            "that its network comes from"
        )
    config = read_json(source / component / NETWORK)
    if (name := config["_class_name"]) != ours["network"]:
        raise UserError(
            f"the {component} of {source} is a {name}, the student a {ours['network']}; name the "
            "pipeline that its network comes from"
        )
    theirs, own = (asdict(library.describe(name, each)) for each in (config, ours["config"]))
    if other := [field for field in own if own[field] != theirs[field]]:
        raise UserError(
            f"the {component} of {source} has other {other[0]} than the student: "
            f"{theirs[other[0]]} and not {own[other[0]]}; name the pipeline that its network comes from"
        )


def write(sampler: ExportedSampler, source: Path, out: Path) -> None:
    """Write a sampler's network and scheduler into the new folder `out`, with the other parts of `source`."""
    index, component = index_of(source), scheduled.component_of(sampler)
    for name, place in parts(source, index):
        if name not in (component, scheduled.SCHEDULER):
            copy(place, out / name)
    network = scheduled.network_of(sampler)
    network.save_pretrained(out / component)
    scheduled.write(sampler, out)
    index |= {
        component: ["diffusers", type(network).__name__],
        scheduled.SCHEDULER: ["diffusers", scheduled.steps_of(sampler).scheduler],
    }
    (out / PIPELINE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def reader(folder: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return a function from named inputs to the latents that the pipeline of a folder makes of them."""
    for each in (diffusers, transformers):
        each.utils.logging.disable_progress_bar()
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    kind, (told, _) = kind_of(folder, index_of(folder)), scheduled.told_to(folder)
    asked = {"sigmas": told["sigmas"], "num_inference_steps": told["steps"]}
    asked["guidance_scale"] = 1.0 if told["guidance"] is None else told["guidance"]

    def sample(inputs: dict[str, Tensor]) -> Tensor:
        height, width = inputs["noise"].shape[-2:]
        called = kind(pipe, folder, text_encoders.pixels(folder, (height, width)))
        return called.sample(inputs["noise"], inputs, **asked)

    return sample


def index_of(folder: Path) -> dict[str, Any]:
    """Return what model_index.json says, without where the folder once came from.

    Raises:
        UserError: if there is none.
    """
    if not (folder / PIPELINE).is_file():
        raise UserError(
            f"{folder} has no {PIPELINE}: it is no pipeline of diffusers; name the whole folder of one"
        )
    return {name: said for name, said in read_json(folder / PIPELINE).items() if name != "_name_or_path"}


def kind_of(folder: Path, index: dict[str, Any]) -> type[TextPipeline]:
    """Return how a pipeline is called.

    Raises:
        UserError: if fewstep does not know it, or it takes no sigmas.
    """
    name, known = str(index.get("_class_name")), registry.available(text_encoders.PIPELINES)
    if name.lower() not in known:
        raise UserError(
            f"{folder} is a {name}, which fewstep does not know how to call (it knows {', '.join(known)}); "
            f"{INSTEAD}"
        )
    return registry.find(text_encoders.PIPELINES, name.lower())


def parts(folder: Path, index: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield name and folder of each part that a pipeline has.

    Raises:
        UserError: if one is not told by two names, is missing, is code of its own, or has no weights but
            pickled ones.
    """
    for name, said in index.items():
        if name.startswith("_") or not isinstance(said, list) or None in said:
            continue
        if len(said) != 2 or not all(isinstance(each, str) for each in said):
            raise UserError(
                f"{folder / PIPELINE} must name the library and the class of {name}, got {said}; copy "
                "the whole pipeline again"
            )
        place, (module, kind) = folder / name, said
        if not name.isidentifier():
            raise UserError(f"{folder / PIPELINE} names a part {name!r}, which leads elsewhere")
        if module not in LIBRARIES and not hasattr(diffusers.pipelines, module):
            raise UserError(f"{place} is a {kind} of {module}, code that no library has; {INSTEAD}")
        if not place.is_dir():
            raise UserError(f"{place} is not there, and {PIPELINE} names it; copy the whole pipeline")
        if (place / NETWORK).is_file() or any(file.suffix in weights.PICKLED for file in place.iterdir()):
            weights.files_of(place)
        yield name, place


def copy(part: Path, out: Path) -> None:
    """Copy the files of a part that are kept."""
    out.mkdir(parents=True)
    for file in sorted(part.iterdir()):
        if file.suffix in KEPT and file.is_file():
            shutil.copyfile(file, out / file.name)
