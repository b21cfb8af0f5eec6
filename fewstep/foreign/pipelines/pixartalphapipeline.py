"""PixArtAlphaPipeline: the states of a T5 with their mask, and the size of the image."""

from typing import Any

from fewstep.foreign.text_pipeline import TextPipeline


class Pixartalphapipeline(TextPipeline):
    """PixArt-alpha; resolution and aspect_ratio are for its large networks."""

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        text, mask, no_text, no_mask = self.pipe.encode_prompt(texts, **asked)
        height, width = self.size
        sizes = {
            "resolution": self.of_all(texts, height, width),
            "aspect_ratio": self.of_all(texts, height / width),
        }
        return {"text": text, "text_mask": mask} | sizes, {"text": no_text, "text_mask": no_mask} | sizes
