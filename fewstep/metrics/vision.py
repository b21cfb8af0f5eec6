"""Vision models of the library transformers: the embeddings of CLIP, of images and texts, and of DINOv2."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fewstep.errors import UserError, and_others, first_line
from fewstep.files import sha256
from fewstep.foreign import weights
from fewstep.foreign.formats.diffusers import NETWORK, read_json
from fewstep.lazy import brought_by, lazy_imports
from fewstep.metrics.backend import Backend

with lazy_imports(error_callback=brought_by("foreign", what="a vision model", library="transformers")):
    import transformers

BATCH = 50  # of network calls; fixed, because rounding differs a little between batch sizes


class Vision(Backend):
    """A vision model and what makes its input of an image; the class token of DINOv2 after its last norm."""

    def __init__(self, network: Any, processor: Any, digest: str, *, compares_texts: bool = False) -> None:
        kind = type(network).__name__
        told = f"{kind} sha256:{digest[:8]}, 8 bits, {type(processor).__name__}"
        super().__init__(told, compares_texts=compares_texts)
        self.network, self.processor = network, processor

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """See Backend.features."""
        return torch.cat([self.embed(self._seen(part)).float().cpu() for part in images.split(BATCH)])

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the features (n, d) of what the processor made of images."""
        return self.network(pixel_values=pixels).pooler_output

    def _seen(self, images: Tensor) -> Tensor:
        arrays = [image.permute(1, 2, 0).numpy() for image in images]
        pixels = self.processor(
            images=arrays, input_data_format="channels_last", return_tensors="pt"
        ).pixel_values
        return pixels.to(self.network.device)


class Clip(Vision):
    """CLIP's projected embeddings (Radford et al. 2021, arXiv 2103.00020)."""

    def __init__(self, network: Any, processor: Any, digest: str, tokenizer: Any) -> None:
        super().__init__(network, processor, digest, compares_texts=tokenizer is not None)
        self.tokenizer = tokenizer

    def embed(self, pixels: Tensor) -> Tensor:
        """See Vision.embed."""
        return self.network.get_image_features(pixel_values=pixels).pooler_output

    @torch.no_grad()
    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """See Backend.similarity; texts are cut at the number of tokens that CLIP knows."""
        most = self.network.config.text_config.max_position_embeddings
        asked = {"padding": "max_length", "max_length": most, "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer(list(texts), **asked).to(self.network.device)
        of_texts = self.network.get_text_features(**tokens).pooler_output.float().cpu()
        return torch.cosine_similarity(self.features(images), of_texts)


def read(folder: Path, device: str) -> Vision:
    """Return the vision model of a folder.

    Raises:
        UserError: if it holds none of a kind that is known, or its weights are missing or damaged.
    """
    kind = read_json(folder / NETWORK).get("model_type")
    known = {"clip": "CLIPModel", "dinov2": "Dinov2Model"}
    if kind not in known:
        raise UserError(
            f"{folder} holds a model of type {kind!r}; features are taken of these: {', '.join(known)}"
        )
    files = weights.files_of(folder)  # refuses pickled ones, and says so
    digest = hashlib.sha256(b"".join(bytes.fromhex(sha256(file)) for file in files)).hexdigest()
    transformers.utils.logging.disable_progress_bar()
    try:
        network, told = getattr(transformers, known[kind]).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer = None
        if kind == "clip" and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        problem = first_line(error)
        raise UserError(f"{folder} can't be read as a {known[kind]} ({problem}); save it again") from error
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"{folder} lacks {and_others(missing, 'weight')}; save it again")
    network = network.eval().requires_grad_(False).to(device)
    return (
        Vision(network, processor, digest) if kind != "clip" else Clip(network, processor, digest, tokenizer)
    )
