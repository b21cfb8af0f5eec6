"""PixArtSigmaPipeline: as PixArt-alpha, with more tokens."""

from fewstep.foreign.pipelines.pixartalphapipeline import Pixartalphapipeline


class Pixartsigmapipeline(Pixartalphapipeline):
    """PixArt-sigma."""
