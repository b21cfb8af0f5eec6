"""StableDiffusion3Pipeline: states of two CLIP text encoders and a T5 in a row, and pooled text."""

from types import SimpleNamespace
from typing import Any, ClassVar

from fewstep.foreign.formats.diffusers import NETWORK, read_json
from fewstep.foreign.text_pipeline import TextPipeline


class Stablediffusion3pipeline(TextPipeline):
    """Stable Diffusion 3, also without its T5, for whose states it then takes zeros."""

    optional: ClassVar[tuple[str, ...]] = ("text_encoder_3", "tokenizer_3")
    named: ClassVar[dict[str, str]] = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        if self.pipe.text_encoder_3 is None:  # it asks the network how wide the zeros are
            config = read_json(self.folder / "transformer" / NETWORK)
            self.pipe.transformer = SimpleNamespace(config=SimpleNamespace(**config))
        text, no_text, pooled, no_pooled = self.pipe.encode_prompt(texts, None, None, **asked)
        return {"text": text, "pooled": pooled}, {"text": no_text, "pooled": no_pooled}
