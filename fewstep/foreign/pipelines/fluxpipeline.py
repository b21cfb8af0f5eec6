"""FluxPipeline: the states of a T5, and the pooled text of a CLIP text encoder."""

from typing import Any

from fewstep.foreign.text_pipeline import TextPipeline


class Fluxpipeline(TextPipeline):
    """Flux, which guides away from nothing: its null value is that of an empty text."""

    def call(self, texts: list[str], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """See TextPipeline.call."""
        negative = asked.pop("negative_prompt", [""])
        del asked["do_classifier_free_guidance"]
        given, away = (self.pipe.encode_prompt(each, None, **asked) for each in (texts, negative))
        return {"text": given[0], "pooled": given[1]}, {"text": away[0], "pooled": away[1]}
