"""Evaluate: every model at every NFE, as numbers, pictures and a page."""

from pathlib import Path

from pydantic import Field

from fewstep.files import remove
from fewstep.lazy import lazy_imports
from stages.artifacts import manifests
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.features import FeatureSettings, feature_inputs, wrong_features
from stages.settings.fields import Count, Precision, Settings, SolverName
from stages.settings.models import models, references, wrong_nfe, wrong_reference
from stages.settings.params import Params
from stages.settings.refined import RefinedSettings, wrong_refined
from stages.settings.samplers import EntryName, SamplerSettings, wrong_samplers
from stages.settings.scales import Scales, wrong_scales
from stages.settings.steps import broken_steps

with lazy_imports():
    from stages.evaluation import by_features, evaluation, measuring, report, yardstick

VERSION = 6  # bump when the numbers this stage writes change

LEFTOVERS = (".tmp", ".old")  # of a publishing that was killed


class Config(Settings):
    """Settings of the evaluate stage."""

    samples: int = Field(1000, ge=50)
    """Samples in a block."""
    blocks: int = Field(8, ge=2)
    """Disjoint blocks of noise, the same for every model; errors are over blocks."""
    nfe: tuple[Count, ...] = Field(min_length=1)
    """NFE at which models trained at all times are sampled with equal steps."""
    reference: str | None = None
    """The model that all others are compared with, a key of pretrain or adopt. null takes the only key of
    pretrain, or of adopt if pretrain is {}; of several, one must be named."""
    reference_solver: SolverName = "ab2"
    """The solver of its fine runs. On digits, ab2 converges with half the NFE of heun."""
    reference_nfe: int = Field(16, ge=1)
    """NFE of the first fine run, which is doubled until the distance to the data converges. The last is what
    all models are compared with: in distance, and by endpoint_rmse."""
    guidance: dict[str, Scales] = Field({})
    """Scales of guidance at which students are sampled that take it as an input, by their names; both ends of
    its range for one without an entry."""
    samplers: dict[EntryName, SamplerSettings] = Field({})
    """Models that are also sampled with other steps than a solver's, by a name of your own for each."""
    features: dict[EntryName, FeatureSettings] = Field({})
    """Networks in whose features samples are also compared, by a name of your own for each."""
    refined: dict[EntryName, RefinedSettings] = Field({})
    """Models that are also sampled with a refiner beside them, by a name of your own for each."""
    precision: Precision = "float32"
    """Type in which the networks of models compute; states stay float32."""
    batch: int = Field(125, ge=1)
    """Samples in one network call."""


def inputs(config: Config, key: str | None, params: Params) -> dict[str, str]:
    """Return the artifacts this stage reads: the data, and every model and search that params name."""
    found = {"data": "artifacts/prepare", "nets": "artifacts/nets"}
    found |= feature_inputs(config.features)
    found |= {f"model {name}": f"artifacts/models/{name}" for name in models(params)}
    found["reference"] = f"artifacts/models/{config.reference or references(params)[0]}"
    return found | {f"search {name}": f"artifacts/search/{name}" for name in params.keys("search")}


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: each model and number of steps asked for must be possible."""
    config = params.config("evaluate")
    problems = list(wrong_nfe(config.nfe, params))
    problems += wrong_reference(config.reference, params)
    where = "evaluate.reference_nfe"
    problems += broken_steps(where, config.reference_nfe, config.reference_solver)
    problems += wrong_scales(config.guidance, config.reference, params)
    problems += wrong_features(config.features)
    problems += wrong_refined(config.refined, config.samplers, params)
    return problems + wrong_samplers(config.samplers, params)


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return "artifacts/evaluate"


def run(config: Config, job: Job) -> None:
    """Measure the entries that no earlier evaluation kept, then write tables, pictures and the page."""
    remove_models_no_longer_named(job)
    measured = evaluation.evaluate(wanted(config, job))
    report.write_tables(job.out, measured)
    report.write_report(job, measured, config.model_dump(mode="json"))
    for row in measured.rows:  # in the tracker a line for each model, its steps the NFE
        line = report.series(row).replace(", ", "-")
        shown = ("fd_over_teacher", "fd_clf", "kid_clf")
        job.progress.measure(row["nfe"], **{f"{name}/{line}": row[name] for name in shown})
    for picture in sorted(job.out.glob("*.png")):
        job.picture(picture.stem, picture)
    job.facts.update(entries=len(measured.rows), fine_runs=measured.fine_runs)


def ahead(config: Config, job: Job) -> None:
    """Measure the models that are there already; `run` finds their entries kept."""
    if {"data", "nets", "reference"} <= job.inputs.keys():
        measuring.ahead(wanted(config, job))


def wanted(config: Config, job: Job) -> "measuring.Wanted":
    """Return what is to be measured."""
    return measuring.Wanted(
        job=job,
        protocol=yardstick.Protocol(config.blocks, config.samples, config.batch, job.seed),
        fine=measuring.FineRun(job.inputs["reference"].name, config.reference_solver, config.reference_nfe),
        nfe=config.nfe,
        samplers=config.samplers,
        features=by_features.asked_for(config.features, job.inputs),
        scales=config.guidance,
        refined=config.refined,
        precision=config.precision,
        version=VERSION,
    )


def remove_models_no_longer_named(job: Job) -> None:
    """Remove the outputs of stages that left params.yaml, for DVC counts them among the inputs.

    DVC can't list inputs by name here, so this stage depends on the whole of artifacts/models and
    artifacts/search. What is removed stays in DVC's cache.
    """
    named = set(job.inputs.values())
    made = ("model ", "search ")  # what else is read is the user's
    for folder in {path.parent for name, path in job.inputs.items() if name.startswith(made)}:
        for path in sorted(set(folder.iterdir()) - named):
            if not (path / manifests.NAME).exists() and path.suffix not in LEFTOVERS:
                job.progress.note(
                    f"{path} is not made by any stage, but lies in a folder that is an input of evaluate; "
                    "move it to data/"
                )
                continue
            job.progress.note(f"removed {path}: no stage in params.yaml makes it any more")
            remove(path)


if __name__ == "__main__":
    main(Path(__file__))
