"""Text encoders of a pipeline's folder: read without a network, and asked once for all prompts."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from fewstep import registry
from fewstep.conditions import Table, must_have
from fewstep.errors import UserError, and_others, first_line
from fewstep.foreign import weights
from fewstep.foreign.formats.diffusers import NETWORK, PIPELINE, read_json
from fewstep.foreign.text_pipeline import Named, TextPipeline
from fewstep.lazy import brought_by, lazy_imports
from fewstep.progress import SILENT, Progress

with lazy_imports(error_callback=brought_by("foreign", what="encoding prompts", library="transformers")):
    import transformers
with lazy_imports(error_callback=brought_by("foreign", what="encoding prompts", library="diffusers")):
    import diffusers

PIPELINES = "fewstep.foreign.pipelines"
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
PARTS = ("text_encoder", "tokenizer")
"""What the names of these parts begin with in model_index.json."""
BATCH = 8  # of encoder calls; fixed, because rounding differs a little between batch sizes


def table_of(
    pipeline: TextPipeline,
    prompts: Sequence[str],
    wanted: Mapping[str, tuple[int | None, ...]],
    *,
    negative: str | None = None,
    progress: Progress = SILENT,
) -> Table:
    """Return the conditions of prompts, a row each, in float32.

    Args:
        pipeline: Encodes them.
        prompts: The texts.
        wanted: What the network takes, by name and shape, None where any size will do.
        negative: What guidance is to lead away from, if it is not the pipeline's own choice, which is the
            null value.
        progress: Told of every batch.

    Raises:
        UserError: if the encoders make something else than the network takes, or numbers that are not finite.
    """
    null = pipeline.without()
    must_have(
        wanted,
        {name: tuple(values.shape[1:]) for name, values in null.items()},
        by="the network",
        of=f"the encoders of {pipeline.folder} make",
        remedy="take the folder of the pipeline that the network belongs to",
    )
    starts = range(0, len(prompts), BATCH)
    progress.start("encode prompts", len(starts))
    rows: dict[str, np.ndarray] = {}
    for start in starts:
        made = pipeline.encode(list(prompts[start : start + BATCH]))
        for name, values in made.items():
            if not torch.isfinite(values).all():
                raise UserError(
                    f"the encoders of {pipeline.folder} make {name} that is not finite; mend their weights"
                )
            if name not in rows:
                rows[name] = np.empty((len(prompts), *values.shape[1:]), np.float32)
            rows[name][start : start + BATCH] = values.numpy()
        progress.advance()
    away = {} if negative is None else _first(pipeline.without(negative))
    return Table(rows=rows, null=_first(null), negative=away, texts=tuple(prompts))


def read(
    folder: Path, *, size: tuple[int, int], tokens: int | None = None, device: str = "cpu"
) -> TextPipeline:
    """Return the part of a pipeline that encodes prompts, in float32.

    Args:
        folder: Of the pipeline, as `save_pretrained` writes it.
        size: Height and width of its images in pixels; see `pixels`.
        tokens: See TextPipeline.
        device: Where the encoders run.

    Raises:
        UserError: if it is no pipeline, has no text encoders or some that fewstep does not know, or their
            weights are missing or damaged.
    """
    if not (folder / PIPELINE).is_file():
        raise UserError(
            f"{folder} has no {PIPELINE}: prompts are encoded by the text encoders of a whole pipeline; name "
            "its folder, or prepare conditions as arrays"
        )
    index = read_json(folder / PIPELINE)
    name = str(index.get("_class_name"))
    known = registry.available(PIPELINES)
    if name.lower() not in known:
        raise UserError(
            f"{folder / PIPELINE} names the pipeline {name}, whose prompts can't be encoded (those of "
            f"these can: {', '.join(known)}); prepare conditions as arrays"
        )
    find: type[TextPipeline] = registry.find(PIPELINES, name.lower())
    kind = getattr(diffusers, name)
    parameters = inspect.signature(kind.__init__).parameters.values()
    absent = {each.name: None for each in parameters if each.default is each.empty and each.name != "self"}
    parts = {part: _part(folder / part, index.get(part)) for part in absent if part.startswith(PARTS)}
    if missing := [part for part in parts if parts[part] is None and part not in find.optional]:
        raise UserError(
            f"{folder} has no {missing[0]}, with which a {name} encodes prompts; name the folder of the "
            "whole pipeline"
        )
    names = {each.name for each in parameters} - parts.keys()
    options = {part: said for part, said in index.items() if part in names and not isinstance(said, list)}
    pipe = kind(**absent | options | parts)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.to(device)
    return find(pipe, folder, size, tokens)


def pixels(folder: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size in pixels of samples of a size, which are latents if a folder has an autoencoder."""
    if not (config := folder / "vae" / NETWORK).is_file():
        return size
    factor = 2 ** (len(read_json(config).get("block_out_channels", [0])) - 1)
    return size[0] * factor, size[1] * factor


def _part(place: Path, said: Any) -> Any:
    """Return a text encoder or tokenizer; None if the pipeline goes without it."""
    library, name = said if isinstance(said, list) and len(said) == 2 else (None, said)
    if name is None:
        return None
    if library != "transformers" or name not in (*ENCODERS, *TOKENIZERS):
        raise UserError(
            f"{place} is a {name}, which fewstep does not know (it knows {', '.join(ENCODERS)}); prepare "
            "conditions as arrays"
        )
    try:
        return _encoder(place, name) if name in ENCODERS else _tokenizer(place, name)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        told = first_line(error)
        raise UserError(f"{place} can't be read as a {name} ({told}); save the pipeline again") from error


def _encoder(place: Path, name: str) -> nn.Module:
    weights.files_of(place)  # refuses pickled ones, and says so
    transformers.utils.logging.disable_progress_bar()
    network, told = getattr(transformers, name).from_pretrained(
        place, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"{place}, a {name}, lacks {and_others(missing, 'weight')}; save it again")
    return network.eval().requires_grad_(False)


def _tokenizer(place: Path, name: str) -> Any:
    if not place.is_dir():
        raise UserError(f"{place} is not there, and {PIPELINE} names it; copy the whole pipeline")
    return getattr(transformers, name).from_pretrained(place, local_files_only=True)


def _first(values: Named) -> dict[str, np.ndarray]:
    return {name: each[0].numpy() for name, each in values.items()}
