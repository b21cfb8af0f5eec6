"""Pipelines of diffusers that encode prompts, one file each, found by the class in lower case.

Each file defines a class that extends fewstep.foreign.text_pipeline.TextPipeline.
"""

from fewstep import registry

registry.add_plugins(__name__, __path__)
