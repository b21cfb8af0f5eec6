"""StableDiffusionXLPipeline: states of two CLIP text encoders side by side, pooled text, and image sizes."""

from typing import Any, ClassVar

from fewstep.foreign.text_pipeline import TextPipeline


class Stablediffusionxlpipeline(TextPipeline):
    """SDXL; the sizes say that an image was as large as those that are made, and was not cropped."""

    optional: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    named: ClassVar[dict[str, str]] = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
    made: ClassVar[tuple[str, ...]] = ("sizes",)

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        text, no_text, pooled, no_pooled = self.pipe.encode_prompt(texts, **asked)
        sizes = self.of_all(texts, *self.size, 0, 0, *self.size)
        return (
            {"text": text, "pooled": pooled, "sizes": sizes},
            {"text": no_text, "pooled": no_pooled, "sizes": sizes},
        )
