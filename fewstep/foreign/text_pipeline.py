"""TextPipeline: how a pipeline of diffusers makes conditions of prompts."""

import inspect
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewstep.errors import UserError

Named = dict[str, Tensor]
"""Conditions by name, each (n, *shape)."""


class TextPipeline:
    """A file of fewstep.foreign.pipelines defines one for a class of diffusers.

    Args:
        pipe: The pipeline of diffusers, of which prompts need the text encoders and tokenizers alone.
        folder: Where it was read.
        size: Height and width of its images in pixels.
        tokens: How many tokens a long text may have; None for as many as the pipeline takes.

    Raises:
        UserError: if the number of tokens can't be chosen.
    """

    optional: ClassVar[tuple[str, ...]] = ()
    """Parts that it can go without."""
    named: ClassVar[dict[str, str]] = {"text": "prompt_embeds"}
    """What its call names conditions, in place of prompts."""
    made: ClassVar[tuple[str, ...]] = ()
    """Conditions that its call makes itself, of the size of an image."""

    def __init__(self, pipe: Any, folder: Path, size: tuple[int, int], tokens: int | None = None) -> None:
        self.pipe, self.folder, self.size = pipe, folder, size
        self.asked = {} if tokens is None else {"max_sequence_length": tokens}
        if self.asked and "max_sequence_length" not in inspect.signature(pipe.encode_prompt).parameters:
            raise UserError(
                f"{type(pipe).__name__} encodes as many tokens as its tokenizer says; leave tokens out"
            )

    def encode(self, texts: list[str]) -> Named:
        """Return the conditions of texts, as the pipeline does without guidance; float32, on the CPU."""
        return self._ask(texts, do_classifier_free_guidance=False)[0]

    def without(self, negative: str | None = None) -> Named:
        """Return what the pipeline guides away from, of shape (1, ...); None: where no prompt says it."""
        said = {} if negative is None else {"negative_prompt": [negative]}
        return self._ask([""], do_classifier_free_guidance=True, **said)[1]

    @torch.no_grad()
    def _ask(self, texts: list[str], **guided: Any) -> tuple[Named, Named]:
        given, without = self.call(texts, **guided, **self.asked)
        return _plain(given), _plain(without)

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the pipeline's `encode_prompt` makes of texts, and of the negative prompt if guided.

        Args:
            texts: The prompts.
            **asked: do_classifier_free_guidance; negative_prompt, one text, if there is one; and
                max_sequence_length if somebody chose it.
        """
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, noise: Tensor, conditions: Named, **asked: Any) -> Tensor:
        """Return the latents that the whole pipeline makes, (batch, *shape).

        Args:
            noise: Where they start, (batch, *shape).
            conditions: Those of `named`, (batch, ...) each, and others, which are left to the pipeline.
            **asked: sigmas, num_inference_steps and guidance_scale.
        """
        height, width = self.size
        given: dict[str, Any] = {
            said: conditions[name] for name, said in self.named.items() if name in conditions
        }
        given |= {"height": height, "width": width, "output_type": "latent", "return_dict": False}
        return self.pipe(latents=noise, **given, **asked)[0]

    def of_all(self, texts: list[str], *numbers: float) -> Tensor:
        """Return the same numbers for each text, (n, numbers)."""
        return torch.tensor([numbers]).expand(len(texts), -1)


def _plain(conditions: dict[str, Any]) -> Named:
    """Return those that there are, in float32 and on the CPU."""
    return {name: each.float().cpu() for name, each in conditions.items() if each is not None}
