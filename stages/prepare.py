"""Prepare: any source of data -> shards, perhaps of its latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import Field

from fewstep.data import facts_of, kept_conditions, split
from fewstep.lazy import lazy_imports
from stages.preparing.settings import CodecSettings, TextEncoders
from stages.preparing.source_settings import SourceSettings, read_of_source, wrong_source
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import outside_data
from stages.settings.params import Params

with lazy_imports():
    from fewstep import checkpoint, codec, latent_conditions, latents, rows, shards
    from fewstep.metrics import protocol
    from stages.figures import sample_grid
    from stages.preparing import captions, sources
    from stages.process import device

VERSION = 8  # bump when the numbers this stage writes change


class Config(SourceSettings):
    """Settings of the prepare stage; with where the samples come from."""

    held_out: float = Field(0.25, gt=0, lt=1)
    """Share of the samples that is kept from training, for held-out losses and the metric's floor."""
    codec: CodecSettings | None = None
    """The autoencoder whose latents models learn and make; null for none. Pictures show and nets measure the
    images that it makes of them."""
    text_encoders: TextEncoders | None = None
    """The encoders that make conditions of what the source says of each image; null for none."""
    samples_per_shard: int = Field(4096, ge=1)
    """Samples in one shard; fewer of large samples, for a shard has 256 MiB at most."""
    condition_rows: int = Field(1024, ge=1)
    """Of how many training samples models keep the conditions, to draw those of their own samples from; class
    labels alone are drawn without."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return what this stage reads: the source's file or folder, and nothing else of data/.

    One that is not there is left to `run`, which says what there is instead.
    """
    folders = {"codec": config.codec, "text_encoders": config.text_encoders}
    return read_of_source(config) | {name: each.folder for name, each in folders.items() if each}


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return "artifacts/prepare"


def check(params: Params) -> list[str]:
    """Return what is wrong with a source's name or options; files are looked for when the stage runs."""
    config = params.config("prepare")
    folders = {"codec": config.codec, "text_encoders": config.text_encoders}
    named = [(f"prepare.{name}.folder", each.folder) for name, each in folders.items() if each]
    problems = wrong_source(config) or outside_data(named)
    if config.codec and config.codec.conditions:
        problems += [
            f"prepare.codec.conditions are those of an .npz file, not of prepare.{other}; remove one of them"
            for other in ("teacher", "text_encoders")
            if getattr(config, other)
        ]
    return problems


def run(config: Config, job: Job) -> None:
    """Write the shards of both splits and a grid of real samples."""
    least = (protocol.LEAST_TRAIN, protocol.LEAST_HELD_OUT)
    source = sources.read(config, job, least)
    source = captions.with_texts_encoded(source, config, job)
    samples, autoencoder = source, None
    if config.codec:
        autoencoder = codec.read(job.inputs["codec"]).to(device.device())
        drawn_by = job.seed if config.codec.encode == "sample" else None
        samples = latents.latents_of(source, autoencoder, drawn_by)
        samples = latent_conditions.with_latent_conditions(
            samples, autoencoder, config.codec.conditions, job.progress
        )
    classes = len(samples.class_names)
    chosen_by = split(len(samples.data), config.held_out, job.seed, at_least=least)
    job.facts.update(facts_of(samples, chosen_by[0]))
    for note in job.facts["notes"]:
        job.progress.note(note)
    about = {"source": config.named, "seed": job.seed, "classes": classes, "pixels": samples.pixels}
    written = [
        shards.write_shards(
            job.out / name,
            len(chosen),
            shards.in_one_shard(config.samples_per_shard, samples.fields(chosen, 0, 1)),
            partial(samples.fields, chosen),
            facts={"split": name} | about,
            affine={"data": samples.affine} if samples.affine else None,
            progress=job.progress,
        )
        for name, chosen in zip(("train", "held_out"), chosen_by, strict=True)
    ]

    if (table := kept_conditions(samples, chosen_by[0], config.condition_rows, job.seed)) is not None:
        table.save(job.out / checkpoint.CONDITIONS)

    stored = [shards.Column(split, "data") for split in written]
    shown = [("data", sample_grid.spread_over(codec.decoded(stored[0], autoencoder)))]
    if autoencoder is not None:
        autoencoder.save(job.out / codec.PREPARED)
        job.facts["codec"], told = latents.examined(autoencoder, source, stored[1], chosen_by[1])
        job.progress.note(told)
        if source.pixels:  # they are at hand, and cost no decoding
            images = rows.Chosen(latents.images_of(source), chosen_by[0])
            shown = [("data", sample_grid.spread_over(images)), ("decoded", shown[0][1])]
    sample_grid.draw_sample_grid(job.out / "samples.png", shown)
    job.picture("samples", job.out / "samples.png")
    job.facts.update(train=len(stored[0]), held_out=len(stored[1]))


if __name__ == "__main__":
    main(Path(__file__))
