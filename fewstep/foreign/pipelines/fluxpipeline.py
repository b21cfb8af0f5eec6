"""FluxPipeline: the states of a T5, and the pooled text of a CLIP text encoder."""

from typing import Any, ClassVar

from torch import Tensor

from fewstep.foreign.text_pipeline import Named, TextPipeline


class Fluxpipeline(TextPipeline):
    """Flux, which guides away from nothing: its null value is that of an empty text."""

    named: ClassVar[dict[str, str]] = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        negative = asked.pop("negative_prompt", [""])
        del asked["do_classifier_free_guidance"]
        given, away = (self.pipe.encode_prompt(each, None, **asked) for each in (texts, negative))
        return {"text": given[0], "pooled": given[1]}, {"text": away[0], "pooled": away[1]}

    def sample(self, noise: Tensor, conditions: Named, **asked: Any) -> Tensor:
        """See TextPipeline.sample; the pipeline has its latents packed."""
        made = super().sample(self.pipe._pack_latents(noise, *noise.shape), conditions, **asked)
        return self.pipe._unpack_latents(made, *self.size, self.pipe.vae_scale_factor)
