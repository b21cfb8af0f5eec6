"""What the training stages share: a training on an artifact, the model directory, facts, a sample grid."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fewstep import codec, randomness, variables
from fewstep.checkpoint import load_model, save_model, table_with
from fewstep.conditions import LABEL, ROW, Table, must_have, shapes_of
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import Grid, uniform
from fewstep.model import Model, ModelConfig, build
from fewstep.pairs import PairLoss
from fewstep.power_averages import FOLDER
from fewstep.settings import MonitorSettings, TrainSettings
from fewstep.shards import Shards
from fewstep.solvers import integrate
from fewstep.spacings import dividing
from fewstep.training.loop import Trained
from fewstep.training.method import Batch, Method
from stages.artifacts import places
from stages.artifacts.scratch import link, root
from stages.figures.sample_grid import draw_sample_grid, samples_shown
from stages.process.device import device
from stages.run.job import Job
from stages.settings.discovery import address
from stages.settings.fields import Named
from stages.training.task import TrainTask
from stages.workers.distributed import Group, launch

SHOWN_NFE = (1, 2, 4, 8, 32)
PAIR_FACTS = (
    "checks",
    "inverted_checks",
    "problems",
    "advice",
)  # the facts of a coupling that go with each model trained on it


def student_of(init: Model, changes: dict[str, Any], architecture: Named | None, *, seed: int) -> Model:
    """Return the model that a training starts with.

    Args:
        init: Whose weights it has, if its architecture is the same.
        changes: The fields of its config that differ from those of `init`.
        architecture: Another one, whose weights are drawn; None for that of `init`.
        seed: Of the drawn weights.
    """
    config = replace(init.config, **changes)
    if architecture is None:
        return Model(config, init.network, init.conditions.table)
    # what init's network takes of guidance, the student's does only if its method asks for that
    config = replace(config, architecture=architecture.named(), guidance_input=False, guidance_range=None)
    return build(config, seed=seed, table=init.conditions.table)


@dataclass(frozen=True)
class TrainingSpec:
    """What a stage trains, how, and on what."""

    method: Method
    student: Model
    """The model before training."""
    settings: TrainSettings
    source: Path
    """An artifact with the splits train and held_out."""
    select: Callable[[Batch], Batch] | None = None
    """What to make of each batch before the method sees it; it must be fit to be sent to a process."""
    monitor: MonitorSettings | None = None
    """How the training is watched, if it is, in the data of the input "data"."""

    def task(self, job: Job) -> TrainTask:
        """Return the training as its processes take part in it.

        Args:
            job: The stage's job; the input "teacher", if any, is what the method may load.

        Raises:
            UserError: if there are fewer samples than a batch needs, or their shape is not the model's.
        """
        training, held_out = Shards(self.source / "train"), Shards(self.source / "held_out")
        if training.samples < self.settings.batch:
            raise UserError(
                f"{self.source} has {training.samples} samples to train on, fewer than one batch of "
                f"{self.settings.batch}; lower {job.stage}.{job.key}.train.batch"
            )
        if ROW in training.fields:
            self.student.conditions.must_be_of(training.facts, where=str(self.source))
        for name, field in held_out.fields.items():
            shape = tuple(field["shape"][1 if name == "states" else 0 :])
            if name in ("data", "noise", "states") and shape != self.student.config.shape:
                raise UserError(
                    f"{self.source} holds samples of shape {shape}, the model takes "
                    f"{self.student.config.shape}; train on samples of the model's shape"
                )
        made_of, starts_from = training.facts.get("noise", "gaussian"), self.student.config.noise
        if self.method.needs.stream in ("pairs", "trajectories") and made_of != starts_from:
            raise UserError(
                f"{self.source} was made of noise {made_of}, but the model starts from {starts_from}; train "
                "on what was made of the same noise"
            )
        return TrainTask(
            self.method,
            self.settings,
            self.source,
            self.select,
            job.seed,
            job.scratch,
            job.inputs,
            self.monitor,
            profiles(job),
        )


def profiles(job: Job) -> Path:
    """Return the folder of the profile that FEWSTEP_PROFILE asks for."""
    return root() / places.PROFILES / address(job.stage, job.key)


def train_model(job: Job, spec: TrainingSpec) -> Trained:
    """Train a student, write its model directory, and picture its samples.

    FEWSTEP_PROCESSES says how many processes of this machine share it, FEWSTEP_NODES how many machines.

    Raises:
        UserError: see `TrainingSpec.task`.
    """
    trained = learn(job, spec.task(job), spec.student, Group.from_environment())
    if variables.count("FEWSTEP_PROFILE", "steps", default=None):
        for file in sorted(profiles(job).glob("*")):
            job.attach("profile", file)
    save_model(job.out, trained.model)
    for file in sorted((job.scratch / FOLDER).glob("*.safetensors")):
        link(file, job.out / FOLDER / file.name)
    if not trained.model.config.refines:  # which alone makes no samples
        picture_samples(job, trained.model)
    job.facts.update(
        first_held_out_loss=trained.first_held_out_loss,
        held_out_loss=trained.held_out_loss,
        loss=trained.loss,
        parameters=sum(p.numel() for p in trained.model.parameters()),
    )
    if (student := spec.student).config.lora is not None:
        job.facts["lora_parameters"] = sum(p.numel() for p in student.parameters() if p.requires_grad)
    note_skipped(job, trained)
    note_monitor(job, trained)
    if spec.method.needs.stream == "pairs":
        note_pairs(job, spec.source, trained)
    return trained


def learn(job: Job, task: TrainTask, student: Model, group: Group) -> Trained:
    """Train a student in this process, or in those of a group, which hand over models as files."""
    if group.alone:
        return task.learn(student, job.progress)
    if group.machine == 0:
        save_model(task.start, student)
    known = launch(group, task.take_part, name=job.result, progress=job.progress)
    return Trained(model=load_model(task.end, merge=False).to(device()).eval(), **known)


def note_skipped(job: Job, trained: Trained) -> None:
    """Note among the job's facts how many updates were left out of a training, if any were."""
    if trained.skipped:
        job.facts["skipped_updates"] = trained.skipped
        job.progress.note(f"{trained.skipped} updates had no finite loss or gradient and were left out")


def note_monitor(job: Job, trained: Trained) -> None:
    """Note among the job's facts what a training's monitor saw, if it had one."""
    if watched := trained.watched:
        job.facts["monitor"] = asdict(watched)
        job.progress.note(
            f"the monitor picked the weights of step {watched.picked.step}, the best of {watched.looks} "
            f"looks (fd {watched.picked.fd:.4g}, recall {watched.picked.recall:.2f})"
        )


def note_pairs(job: Job, source: Path, trained: Trained) -> None:
    """Note among the job's facts what is known of its pairs, and its loss on fresh ones.

    Args:
        job: Of the training; it gains the facts "pair_loss", and "pairs" if the coupling has a manifest.
        source: The coupling, whose name is its key.
        trained: The result of the training.
    """
    assert trained.known_losses is not None
    assert trained.fresh_losses is not None
    loss = PairLoss.of(trained.known_losses, trained.fresh_losses)
    advice = loss.advice(Shards(source / "train").samples, f"couple.{source.name}")
    job.progress.note(advice)
    job.facts["pair_loss"] = asdict(loss) | {"advice": advice}
    name = next((name for name, path in job.inputs.items() if path == source), "")
    if manifest := job.manifests.get(name):
        job.facts["pairs"] = {
            fact: manifest["facts"][fact] for fact in PAIR_FACTS if fact in manifest["facts"]
        }


def publish_model(
    job: Job, model: Model, data: dict[str, Any], *, source: Path, table: Table | None = None
) -> None:
    """Publish a model that was not trained here as if it had been, on the prepared data.

    Args:
        job: The stage's job.
        model: On the CPU.
        data: The facts of `prepare`, whose class shares and units the published model has.
        source: The folder it comes from, for messages.
        table: What its conditions are drawn from; None for those of the data, or else its own.

    Raises:
        UserError: if its samples have another shape, other units or other classes than the data.
    """
    shape = tuple(data["shape"])
    if model.config.shape != shape:
        raise UserError(f"{source} makes samples of shape {model.config.shape}, the data has {shape}")
    known: dict[str, Any] = {"units": data["units"]}
    if model.config.units not in (None, ModelConfig(architecture={}, shape=shape, units=data["units"]).units):
        raise UserError(
            f"{source} learnt from points that were standardised by other numbers than the data is; adopt it "
            "with the data that it learnt from, and the same prepare.source_options"
        )
    if model.config.classes and data["classes"]:
        if model.config.classes != data["classes"]:
            raise UserError(
                f"{source} has {model.config.classes} classes, the data {data['classes']} (those without "
                "samples don't count). Prepare data of the same classes, or without labels: then labels are "
                "drawn by the class_shares in the model's config.json"
            )
        known |= {name: data[name] for name in ("class_shares", "class_names")}
    table = table or table_for(job, model, data, source)
    published = Model(replace(model.config, **known), model.network, table)
    save_model(job.out, published)
    picture_samples(job, published.to(device()).eval())
    job.facts["parameters"] = sum(p.numel() for p in model.parameters())


def table_for(job: Job, model: Model, data: dict[str, Any], folder: Path) -> Table | None:
    """Return what the conditions of a model's samples are drawn from: those of the data, or else its own.

    Raises:
        UserError: if neither has them, or the data has them in other shapes.
    """
    wanted = model.config.conditions
    if not wanted or ("conditions" not in data and model.conditions.table is not None):
        return model.conditions.table
    must_have(wanted, shapes_of(data), by=str(folder))
    label = [LABEL] if model.config.classes and data["classes"] else []
    return table_with(job.inputs["data"], [*label, *wanted])


@torch.no_grad()
def picture_samples(job: Job, model: Model) -> None:
    """Draw samples of a few noises: a row for each NFE, or one for a student's own grid."""
    flow, config = as_flow(model), model.config
    count = samples_shown(config.shape)
    # "sheet" names a stream of random numbers: another name draws other samples
    ((noise, conditions),) = draws_of(model, "sheet", job.seed, range(count), batch=count, device=device())
    numbers = dividing(config.equal_steps, SHOWN_NFE)
    grids: list[Grid] = (
        [config.grid]
        if config.grid
        else [uniform(nfe, start=flow.t_start, end=flow.t_end) for nfe in numbers]
    )
    through = codec.of_prepared(job.inputs["data"])
    rows = [
        (f"{grid.steps} NFE", codec.seen(integrate(flow, noise, grid, **conditions).x, through))
        for grid in grids
    ]
    texts = model.conditions.texts("sheet", randomness.keys_of(job.seed, 0, count))
    draw_sample_grid(job.out / "samples.png", rows, texts)
    job.picture("samples", job.out / "samples.png")
