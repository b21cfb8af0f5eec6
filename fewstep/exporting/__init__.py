"""Taking a model away: its whole sampler in the formats of fewstep.exports, compared and described."""
