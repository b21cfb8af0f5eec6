"""What is exported of a model, and which formats can hold it, as far as settings tell."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from pydantic import Field

from fewstep import registry
from fewstep.exports import SCHEDULED, lacks
from fewstep.spacings import all_dividing, dividing
from stages.settings.fields import Count, ExportPlugin, Guidance, Named, Settings, SolverName
from stages.settings.models import (
    TEACHERS,
    equal_steps,
    guidance_range,
    is_refiner,
    maker_of,
    models,
    no_model,
    outside_data,
    takes_until,
    unguidable,
)
from stages.settings.params import Params


class ExportSettings(Settings):
    """What is exported of a model."""

    formats: tuple[ExportPlugin, ...] = Field(("pt2", "onnx"), min_length=1)
    """The formats, files of fewstep.exports, and their options."""
    steps: Count | None = None
    """The number of steps of a model that was trained for any; null takes those that a student was trained
    for."""
    searched: bool = False
    """Whether these are the steps that search.<key> found for the model, instead of equal ones."""
    solver: SolverName = "euler"
    """The solver that takes equal steps; searched ones are taken by that which they were searched for."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale that the sampler computes; 1 is none."""

    def folders(self) -> dict[str, str]:
        """Return the folders of the user's that the formats read, by format and option."""
        return {
            f"{format.name} {what}": path
            for format in self.formats
            for what, path in format.options.paths().items()
        }


def wrong_exports(params: Params) -> list[str]:
    """Return what is wrong between exports and the models that they are of."""
    problems, there = [], models(params)
    for key in params.keys("export"):
        where, config = f"export.{key}", params.config("export", key)
        if key not in there:
            problems.append(f"{where}: {no_model(key, there)}")
            continue
        problems += unguidable(params, [(f"{where}.guidance", config.guidance, key)])
        told = chain(wrong_steps(key, config, params), wrong_formats(key, config, params))
        problems += [f"{where}{each}" for each in told]
        problems += outside_data(
            (f"{where}.formats: the option {what} of {format.name}", path)
            for format in config.formats
            for what, path in format.options.paths().items()
        )
    return problems


def wrong_steps(key: str, config: ExportSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with the steps of a model's sampler."""
    if is_refiner(key, params):
        yield ": a refiner is no flow without its teacher; export that"
    elif config.searched:
        yield from wrong_search(key, config, params)
    elif (own := own_steps(key, params)) is None:
        if config.steps is None and not may_have_steps(key, params):
            yield f".steps is missing: {key} was trained for any number of steps; say how many to take"
        elif config.steps and (finest := equal_steps(params, key)) and not dividing(finest, [config.steps]):
            yield f".steps {config.steps}: {key} takes equal steps; set it to {all_dividing(finest)}"
    elif config.steps not in (None, own):
        yield f".steps {config.steps}: {key} was trained for its own {own} steps alone; leave steps out"
    elif config.solver != "euler" or (config.guidance != 1 and guidance_range(params, key) is None):
        yield f": {key} takes its own steps, by euler and without guidance; leave out solver and guidance"


def wrong_search(key: str, config: ExportSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with steps that a search found."""
    if key not in params.keys("search"):
        yield f".searched: {key} is not searched; add search.{key}, or set searched to false"
        return
    search = params.config("search", key)
    if config.steps not in search.budgets and (config.steps or len(search.budgets) > 1):
        yield f".steps {config.steps} must be one of search.{key}.budgets, {list(search.budgets)}"
    if "solver" in config.model_fields_set and config.solver != search.solver:
        yield f".solver {config.solver} is not that of search.{key}, {search.solver}; leave it out"
    guidance = 1.0 if key in params.keys("distill") else search.guidance  # a student shows its own
    if config.guidance != guidance:
        yield f".guidance {config.guidance} must be {guidance}, that of the grids of search.{key}"


def wrong_formats(key: str, config: ExportSettings, params: Params) -> Iterator[str]:
    """Yield which formats can't be written of a model."""
    names = [format.name for format in config.formats]
    for format in config.formats:
        told = f".formats {format.name}"
        if names.count(format.name) > 1:
            yield f"{told} is named twice"
            return
        if lacking := lacks(format.name, format.options):
            yield f".formats: {lacking}"
        if format.options.by_schedulers and (why := unscheduled(key, config, params)):
            yield f"{told}: no scheduler of diffusers takes the steps, as {why}; take {of_any_model()}"
        if format.options.of_adapters and not may_be_adapter(key, params):
            lacking = f"holds an adapter alone, and {key} is none; train it with lora"
            yield f"{told} {lacking}, or take {of_any_model()}"


def of_any_model() -> str:
    """Return the formats that hold models of any kind, for messages."""
    formats = {name: registry.find("fewstep.exports", name) for name in registry.available("fewstep.exports")}
    return " or ".join(
        name for name, format in formats.items() if not format.by_schedulers and not format.of_adapters
    )


def unscheduled(key: str, config: ExportSettings, params: Params) -> str | None:
    """Say why no scheduler of diffusers takes the steps of a model, None if one may."""
    solver = config.solver
    if config.searched and key in params.keys("search"):
        solver = params.config("search", key).solver
    if solver != "euler":
        return f"the solver is {solver}"
    if takes_until(params, key):
        return f"{key} is a flow map"
    *trained, (stage, teacher) = lineage_of(key, params)
    if any(each.method.options.needs.slow_times for _, each in trained):
        return f"the network of {key} was given slow times"
    drawn = next((each.model for _, each in trained if each.model is not None), None)
    if drawn is not None and not has_schedulers(drawn):
        return f"its network is {drawn.name}, and not one of diffusers"
    if stage != "adopt":
        goes_back = stage == "pretrain" and teacher.checkpoint is None  # else a folder says what it is
        return f"{key} goes back to pretrain, and not to a network that was adopted" if goes_back else None
    if drawn is None and not has_schedulers(teacher.format):
        return f"its network is {teacher.format.name}, and not one of diffusers"
    path, prediction = teacher.path, teacher.prediction
    if isinstance(path, dict):
        path = path["name"]
    if path is not None and path not in SCHEDULED:
        return f"its path is {path}, and not {' or '.join(SCHEDULED)}"
    taken = {name for each, named in SCHEDULED.items() if path in (None, each) for name in named}
    if prediction is not None and prediction not in taken:
        return f"it predicts {prediction}, and not {' or '.join(sorted(taken))}"
    return None


def has_schedulers(plugin: Named) -> bool:
    """Return whether schedulers of diffusers may sample networks of an architecture, or of a format."""
    return getattr(plugin.options, "of_diffusers", False)


def lineage_of(model: str, params: Params) -> list[tuple[str, Any]]:
    """Return the stage and Config of a model, of that which it starts from, and so on up to a teacher."""
    found: list[tuple[str, Any]] = []
    while (stage := maker_of(params, model)) is not None and len(found) < len(models(params)):
        found.append((stage, params.config(stage, model)))
        if stage in TEACHERS:
            break
        model = found[-1][1].init
    return found


def may_have_steps(key: str, params: Params) -> bool:
    """Return whether a model's folder may hold a student's own steps, or its training for any kept some."""
    stage, config = lineage_of(key, params)[0]
    return (stage == "distill" and config.nfe != "any") or getattr(config, "checkpoint", None) is not None


def own_steps(key: str, params: Params) -> int | None:
    """Return the number of steps that a student was trained for alone, None if it takes any."""
    if key not in params.keys("distill"):
        return None
    student = params.config("distill", key)
    any_number = student.nfe == "any" or student.method.options.trained_times == "all"
    return None if any_number else student.nfe


def may_be_adapter(key: str, params: Params) -> bool:
    """Return whether a model is an adapter, or its folder may hold one."""
    stage, config = lineage_of(key, params)[0]
    if stage in TEACHERS:
        return getattr(config, "checkpoint", None) is not None
    return config.lora is not None
