"""Which models there are: what settings that name one are checked against."""

from collections.abc import Collection, Iterable

from fewstep.errors import UserError
from stages.settings.params import Named, Params


def models(params: Params) -> list[str]:
    """Return the names of all models of the chain, the pretrained one first."""
    return ["pretrain", *params.keys("reflow"), *params.keys("distill")]


def flows(params: Params) -> list[str]:
    """Return the names of the models trained at all times, which can be coupled, reflowed and searched."""
    students = [
        key
        for key in params.keys("distill")
        if params.config("distill", key).method.build().trained_times == "all"
    ]
    return ["pretrain", *params.keys("reflow"), *students]


def jittered(params: Params) -> dict[str, str]:
    """Return the teachers, by student, of those trained with jittered timesteps, which can be searched."""
    students = {key: params.config("distill", key) for key in params.keys("distill")}
    return {key: s.teacher for key, s in students.items() if s.method.build().trained()["jitter"]}


def missing_flows(params: Params, named: Iterable[tuple[str, str]]) -> list[str]:
    """Return what is wrong with settings, given as (where, name), that need a model trained at all times."""
    there, students = flows(params), models(params)
    return [
        f"{where}: {name!r} is trained only at the timesteps of its grid; choose from: {', '.join(there)}"
        if name in students
        else f"{where}: {name!r} is no model; there are: {', '.join(there)}"
        for where, name in named
        if name not in there
    ]


def doubled_models(params: Params) -> list[str]:
    """Return the names that more than one stage would give to its model."""
    names = models(params)
    return [
        f"{name!r} names more than one model among pretrain, reflow and distill; rename one"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def wrong_methods(
    params: Params, named: Iterable[tuple[str, Named]], *, supplied: Collection[str] = ()
) -> list[str]:
    """Return what is wrong with methods, given as (where, method), of a stage.

    Args:
        params: All settings.
        named: The methods, and the settings that name them.
        supplied: What the stage supplies of fewstep.training.method.Needs, beside the stream and labels.
    """
    config, named = params.config("pretrain"), list(named)
    problems = [
        f"{where} {method.name} needs {', '.join(missing)}, which this stage can't supply; take another"
        for where, method in named
        if (missing := method.build().needs.unmet({"conditions", *supplied}))
    ]
    for where, method in [] if config.checkpoint else named:  # an adopted model says itself what it knows
        try:
            method.build().check_labels(config.conditional)
        except UserError as error:
            told = f"pretrain.conditional is {str(config.conditional).lower()}"
            problems.append(f"{where} {method.name}: {error} ({told})")
    return problems


def unguidable(params: Params, named: Iterable[tuple[str, float]]) -> list[str]:
    """Return what is wrong with guidance scales, given as (where, scale), if models know no classes."""
    config = params.config("pretrain")
    if config.conditional or config.checkpoint:
        return []
    return [
        f"{where} {scale} needs class-conditional models: set pretrain.conditional to true, or this to 1"
        for where, scale in named
        if scale != 1
    ]
