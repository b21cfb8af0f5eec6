"""StableDiffusionPipeline: the last states of one CLIP text encoder."""

from typing import Any

from fewstep.foreign.text_pipeline import TextPipeline


class Stablediffusionpipeline(TextPipeline):
    """Stable Diffusion 1 and 2."""

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        given, without = self.pipe.encode_prompt(texts, self.pipe.device, 1, **asked)
        return {"text": given}, {"text": without}
