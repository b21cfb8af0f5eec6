"""PixArtAlphaPipeline: the states of a T5 with their mask, and the size of the image."""

from typing import Any, ClassVar

from torch import Tensor

from fewstep.foreign.text_pipeline import Named, TextPipeline


class Pixartalphapipeline(TextPipeline):
    """PixArt-alpha; resolution and aspect_ratio are for its large networks."""

    named: ClassVar[dict[str, str]] = {"text": "prompt_embeds", "text_mask": "prompt_attention_mask"}
    made: ClassVar[tuple[str, ...]] = ("resolution", "aspect_ratio")

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        text, mask, no_text, no_mask = self.pipe.encode_prompt(texts, **asked)
        height, width = self.size
        sizes = {
            "resolution": self.of_all(texts, height, width),
            "aspect_ratio": self.of_all(texts, height / width),
        }
        return {"text": text, "text_mask": mask} | sizes, {"text": no_text, "text_mask": no_mask} | sizes

    def sample(self, noise: Tensor, conditions: Named, **asked: Any) -> Tensor:
        """See TextPipeline.sample; images keep their size, and are not brought to a common one."""
        return super().sample(noise, conditions, use_resolution_binning=False, **asked)
