"""Which models there are: what settings that name one are checked against."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from fewstep import noises, paths
from fewstep.errors import UserError
from fewstep.guidance_ranges import Range
from fewstep.spacings import all_dividing, dividing
from fewstep.training.method import Method
from stages.settings.fields import Named
from stages.settings.loss_features import wrong_loss_features
from stages.settings.messages import suggest
from stages.settings.params import Params

TEACHERS = ("pretrain", "adopt")
"""The stages that make models which learnt from data."""
MAKERS = (*TEACHERS, "reflow", "distill")
"""The stages that make models; each key of their sections is the name of one."""


def teachers(params: Params) -> list[str]:
    """Return the names of the models that learnt from data: those pretrained, and those adopted."""
    return [key for stage in TEACHERS for key in params.keys(stage)]


def models(params: Params) -> list[str]:
    """Return the names of all models of the chain, the pretrained ones first."""
    return [key for stage in MAKERS for key in params.keys(stage)]


def maker_of(params: Params, model: str) -> str | None:
    """Return the stage that makes a model, None if there is no such model."""
    return next((stage for stage in MAKERS if model in params.keys(stage)), None)


def no_model(name: str, there: list[str]) -> str:
    """Say that a setting names a model that is not among those that fit there."""
    return f"{name!r} is no model; {suggest(name, there)}"


def outside_data(named: Iterable[tuple[str, str]], *, what: str = "folder") -> list[str]:
    """Return what is wrong with folders or files of the user's, given as (where, path)."""
    problems = []
    for where, path in named:
        parts = PurePosixPath(path).parts
        if parts[:1] != ("data",) or len(parts) == 1 or ".." in parts:
            problems.append(f"{where} {path!r} must be a {what} under data/, where DVC sees it change")
        elif not path.startswith("data/"):
            problems.append(f"{where} {path!r}: write it as {PurePosixPath(path)}")
    return problems


def lineage(params: Params, model: str) -> Iterator[tuple[str, str, Any]]:
    """Yield stage, name and Config of a model, of the one that its training starts from, and so on.

    The last one is a teacher, unless there is no such model.
    """
    for _ in models(params):  # no chain of models is longer; one that forms a cycle is refused elsewhere
        if (stage := maker_of(params, model)) is None:
            return
        config = params.config(stage, model)
        yield stage, model, config
        if stage in TEACHERS:
            return
        model = config.init


def pretraining(params: Params, model: str) -> tuple[str, Any] | None:
    """Return the training on data that a model goes back to: its key in pretrain, and its Config.

    None for a model that was trained elsewhere, or that goes back to one: it says itself what it knows, when
    it is read. None, too, if there is no such model.
    """
    for stage, name, config in lineage(params, model):
        if stage == "pretrain" and config.checkpoint is None:
            return name, config
    return None


def architecture_of(params: Params, model: str) -> Named | None:
    """Return the architecture of a model; None if it was trained elsewhere, or there is no such model."""
    own = (config.model for stage, _, config in lineage(params, model) if stage != "adopt")
    return next((architecture for architecture in own if architecture is not None), None)


def takes_until(params: Params, model: str) -> bool:
    """Return whether a model's network is given when a step ends, as that of a flow map or of one that was.

    An adopted model says it itself, when it is read.
    """
    for stage, _, config in lineage(params, model):
        if stage != "distill":
            break
        if config.method.options.needs.second_time:
            return True
        if config.model is not None:
            break
    return False


def is_refiner(model: str, params: Params) -> bool:
    """Return whether a model says how the velocity of another one changes, and is no flow."""
    students = params.keys("distill")
    return model in students and params.config("distill", model).method.options.needs.last_velocity


def flows(params: Params) -> list[str]:
    """Return the names of the models with a velocity at all times: to be coupled, reflowed and searched."""
    students = [
        key
        for key in params.keys("distill")
        if (method := params.config("distill", key).method.options).trained_times == "all"
        and not method.needs.second_time
        and not method.needs.last_velocity
    ]
    return [*teachers(params), *params.keys("reflow"), *students]


def jittered(params: Params) -> dict[str, str]:
    """Return the teachers, by student, of those trained with jittered timesteps, which can be searched."""
    students = {key: params.config("distill", key) for key in params.keys("distill")}
    return {key: s.teacher for key, s in students.items() if s.method.options.trained()["jitter"]}


def flow_maps(params: Params) -> dict[str, str]:
    """Return the teachers, by student, of flow maps; an adopted model says itself that it is one."""
    students = {key: params.config("distill", key) for key in params.keys("distill")}
    return {key: s.teacher for key, s in students.items() if s.method.options.needs.second_time}


def equal_steps(params: Params, model: str) -> int | None:
    """Return the number that those of a student's steps must divide, all equal; None of any other model."""
    if model not in params.keys("distill"):
        return None
    found: int | None = params.config("distill", model).method.options.trained()["equal_steps"]
    return found


def wrong_nfe(nfe: tuple[int, ...], params: Params) -> Iterator[str]:
    """Yield what is wrong with the numbers of equal steps that models are measured with."""
    if len(set(nfe)) < len(nfe):
        yield f"evaluate.nfe {list(nfe)} names a number twice"
    for name in models(params):
        if (finest := equal_steps(params, name)) and not dividing(finest, nfe):
            yield f"evaluate.nfe {list(nfe)} has none for {name}: add {all_dividing(finest)}"


def missing_flows(params: Params, named: Iterable[tuple[str, str]]) -> list[str]:
    """Return what is wrong with settings, given as (where, name), that need a model trained at all times."""
    there, problems = flows(params), []
    for where, name in named:
        if name in there:
            continue
        if name not in models(params):
            problems.append(f"{where}: {no_model(name, there)}")
            continue
        needs = params.config("distill", name).method.options.needs
        why = "is trained only at the timesteps of its grid"
        if needs.second_time:
            why = "gives average velocities"
        elif needs.last_velocity:
            why = "is a refiner, which is no flow without its teacher"
        problems.append(f"{where}: {name!r} {why}; choose from: {', '.join(there)}")
    return problems


def references(params: Params) -> list[str]:
    """Return the teachers to compare with if none is named: those pretrained, else those adopted."""
    return params.keys("pretrain") or params.keys("adopt")


def wrong_reference(name: str | None, params: Params) -> list[str]:
    """Return what is wrong with evaluate.reference, the name of a teacher; None leaves it to `references`."""
    there = teachers(params)
    if not there:
        return ["evaluate compares with a teacher, and there is none: add one to pretrain or adopt"]
    if name is None and len(references(params)) > 1:
        return [f"evaluate.reference is missing: name the teacher to compare with, {' or '.join(there)}"]
    if name is not None and name not in there:
        return [f"evaluate.reference {name!r} is no teacher; {suggest(name, there)}"]
    return []


def doubled_models(params: Params) -> list[str]:
    """Return the names that more than one stage would give to its model."""
    places: dict[str, list[str]] = {}
    for stage in MAKERS:
        for key in params.keys(stage):
            places.setdefault(key, []).append(f"{stage}.{key}")
    return [
        f"{' and '.join(named)} would both be the model {key!r}; rename one"
        for key, named in places.items()
        if len(named) > 1
    ]


def wrong_methods(
    params: Params, named: Iterable[tuple[str, Named, str]], *, supplied: Collection[str] = ()
) -> list[str]:
    """Return what is wrong with methods, given as (where, method, init), of a stage.

    Args:
        params: All settings.
        named: The methods, the settings that name them, and the models that their trainings start from.
        supplied: What the stage supplies of fewstep.training.method.Needs, beside the stream and labels.
    """
    named = list(named)
    problems = [
        f"{where} {method.name} trains students; use it in distill, and take another here"
        for where, method, _ in named
        if method.options.needs.unmet({"conditions", *supplied})
    ]
    for where, method, _ in named:
        problems += wrong_loss_features(where, method, params)
    for where, method, init in named:
        if (learnt := pretraining(params, init)) is None:
            continue
        key, config = learnt
        try:
            method.options.check_labels(bool(config.conditional))
        except UserError as error:
            told = f"pretrain.{key}.conditional is {str(config.conditional).lower()}"
            problems.append(f"{where} {method.name}: {error} ({told})")
        if method.options.needs.score:  # its teacher is refused, see no_score
            continue
        try:
            method.options.check_noise(noises.get(config.noise))
        except UserError as error:
            problems.append(f"{where} {method.name}: {error}")
    return problems


def wrong_path(where: str, config: Any) -> list[str]:
    """Return what does not go together of the path, the noise and the prediction of a pretrained model.

    Args:
        where: The place of its settings in params.yaml.
        config: A Config of pretrain.
    """
    problems = []
    path = paths.get(config.path)
    bounded = getattr(config.method.options, "antithetic", False)
    if config.prediction == "velocity" and getattr(path, "gamma", 0) and not bounded:
        problems.append(
            f"{where}.prediction velocity has no bound near data on a path with gamma; set it to v, noise "
            "or data, or method.antithetic to true"
        )
    try:
        noises.must_suit(noises.get(config.noise), path=path, prediction=config.prediction)
    except UserError as error:
        problems.append(f"{where}.noise: {error}")
    return problems


def unguidable(params: Params, named: Iterable[tuple[str, float, str]]) -> list[str]:
    """Return what is wrong with guidance scales, (where, scale, model), of models that can't be guided."""
    problems = []
    for where, scale, model in named:
        if (known := guidance_range(params, model)) is not None:
            low, high = known
            if not low <= scale <= high:
                problems.append(
                    f"{where} {scale} is not among the scales that {model} was trained with, {low:g} to "
                    f"{high:g}; set it to one of these"
                )
            continue
        if scale == 1 or (learnt := pretraining(params, model)) is None:
            continue
        key, config = learnt
        method = training_method(params, model)
        if not config.conditional:
            problems.append(
                f"{where} {scale} needs class-conditional models: set pretrain.{key}.conditional to true, "
                "or this to 1"
            )
        elif method and not method.trained()["guidable"]:
            remedy = "set this to 1"
            if hasattr(method, "label_dropout"):
                remedy = f"set {maker_of(params, model)}.{model}.method.label_dropout, such as to 0.1"
            told = "needs a model that was trained with hidden labels"
            if (shown := shown_guidance(params, model)) != 1:
                told += f", and {model} was taught guidance {shown:g} without"
            problems.append(f"{where} {scale} {told}: {remedy}")
    return problems


def wrong_lora(training: Any, params: Params) -> Iterator[str]:
    """Yield what is wrong with the adapter of a training, a Config of reflow or distill."""
    if training.lora is None:
        return
    if training.model is not None:
        yield ".lora adapts the weights of init, and model draws others; set one of them to null"
    init = training.init
    stage = maker_of(params, init)
    own = params.config(stage, init).lora if stage in ("reflow", "distill") else None
    if own not in (None, training.lora):
        yield (
            f".lora continues the adapter of {stage}.{init}; set it to the same, or to null, which trains "
            "the weights"
        )


def training_method(params: Params, model: str) -> Method | None:
    """Return the method that trains a model, None if no training here makes it."""
    stage = maker_of(params, model)
    if stage in (None, "adopt"):
        return None
    method = params.config(stage, model).method
    return method and method.options


def no_score(model: str, params: Params) -> str | None:
    """Say why a model's velocity tells no score, None if it does."""
    if model in (*params.keys("reflow"), *params.keys("distill")):
        there = " or ".join(teachers(params))
        return f"{model!r} learned from what a model made, and gives no scores; take {there}"
    stage = maker_of(params, model)
    noise = params.config(stage, model).noise if stage in TEACHERS else None
    if noise not in (None, "gaussian"):
        told = noises.get(noise).told()
        return f"{stage}.{model}.noise, {told}, gives no scores; set it to gaussian, or take another teacher"
    if (learnt := pretraining(params, model)) is None:
        return None
    key, config = learnt
    needs = config.method.options.needs
    if needs.stream != "data" or needs.unmet({"conditions"}):  # pretrain itself refuses it
        return None
    why = config.method.options.no_score()
    return why and f"pretrain.{key}.method{why}"


def shown_guidance(params: Params, model: str, asked: float = 1.0) -> float:
    """Return the guidance that samples show if a model makes them with the scale `asked`, by its sections.

    Scales multiply; see fewstep.model.ModelConfig.guidance_shown.
    """
    shown = asked
    for _ in models(params):  # no chain of models is longer; one that forms a cycle is refused elsewhere
        if model in params.keys("reflow"):
            scale, model = guidance_in(params, f"couple/{model}")
        elif model in params.keys("distill"):
            student = params.config("distill", model)
            if (taught := student.method.options.trained().get("baked_guidance")) is not None:
                scale, model = taught, student.teacher
            else:
                scale, model = guidance_in(params, student.train_on)
        else:
            break
        shown *= scale
    return shown


def guidance_range(params: Params, model: str) -> Range | None:
    """Return the scales of guidance that a student takes as an input, None of any other model.

    An adopted model says it itself, when it is read.
    """
    if model not in params.keys("distill"):
        return None
    return params.config("distill", model).method.options.trained().get("guidance_range")


def guidance_in(params: Params, source: str) -> tuple[float, str]:
    """Return the guidance with which samples were made, as train_on names them, and the model they are of.

    Real data was made with 1, by no model.
    """
    stage, _, key = source.partition("/")
    if stage == "couple" and key in params.keys("couple"):
        pairs = params.config("couple", key)
        return pairs.guidance, pairs.model
    if stage == "trajectories" and key in params.keys("search"):
        return params.config("search", key).guidance, key
    return 1.0, ""
