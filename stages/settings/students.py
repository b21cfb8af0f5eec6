"""What must hold between a student and its teacher, what it starts from, and what it learns from."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from fewstep import guidance_ranges, registry
from fewstep.errors import UserError
from fewstep.lora_settings import LoraSettings
from fewstep.training.method import Method
from stages.settings.fields import Count, MethodPlugin, ModelPlugin, Settings
from stages.settings.messages import suggest
from stages.settings.models import (
    architecture_of,
    guidance_in,
    guidance_range,
    is_refiner,
    models,
    no_model,
    no_score,
    shown_guidance,
    takes_until,
    teachers,
    unguidable,
    wrong_lora,
    wrong_methods,
)
from stages.settings.params import Params
from stages.settings.yaml_text import shown

if TYPE_CHECKING:
    from fewstep.grids import Grid
    from fewstep.model import ModelConfig


# what distill gives a method beside its stream and labels
SUPPLIED = (
    *("teacher", "score", "all_states", "data", "features"),
    *("second_time", "flow_map", "slow_times", "last_velocity", "guidance_input"),
)


def number_or_any(nfe: Any) -> Any:
    """Return a number of calls, or "any".

    Raises:
        UserError: if it is neither.
    """
    if nfe != "any" and (type(nfe) is not int or nfe < 1):
        raise UserError(f"should be a whole number from 1, or any, got {shown(nfe)}")
    return nfe


class StudentSettings(Settings):
    """What a student is made of: a method, and the results of other stages."""

    method: MethodPlugin
    """The training method, a file of fewstep.methods, and its options."""
    init: str
    """The model whose weights (their moving average) the student starts from: one of pretrain, adopt or
    reflow, such as its teacher, or a student with the same NFE or any, to train it further."""
    model: ModelPlugin | None = None
    """Another architecture than that of init, a file of fewstep.models, and its options: the student then
    starts from fresh weights, and init gives path, prediction and classes alone."""
    split_after: Count | None = None
    """For a flow map: how many first blocks of a transformer, dit or a DiT, PixArt, SD3 or Flux of diffusers,
    are given the start of a step, and all after them its end, so that it needs no further weights (Lee et al.
    2025, arXiv 2510.24474; there, 20 of 28). It then starts as init where both are equal. null adds the span
    of a step to what all are given."""
    lora: LoraSettings | None = None
    """The adapter that is trained in place of the weights of init; {} is usual, null trains the weights."""
    teacher: str
    """The model whose grid it uses, and which its method may consult."""
    train_on: str
    """What it learns from: trajectories/<teacher> for methods that learn from trajectories, couple/<key> for
    those that learn from pairs, prepare for those that learn from data or need no samples. The last read
    only labels, if there are classes. Real data that a method needs beside pairs or trajectories is
    prepare's, too."""
    nfe: Annotated[int | Literal["any"], BeforeValidator(number_or_any)]
    """NFE that the student samples with; one of the budgets searched for its teacher. any for a
    method that trains flow maps."""


def wrong_students(params: Params) -> list[str]:
    """Return what is wrong between students and the sections they build on."""
    problems = []
    for key in params.keys("distill"):
        student, where = params.config("distill", key), f"distill.{key}"
        problems += wrong_methods(
            params, [(f"{where}.method", student.method, student.init)], supplied=SUPPLIED
        )
        problems += [f"{where}{told}" for told in problems_of(student, params)]
    return problems


def problems_of(student: StudentSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with one student, each to follow its place in params.yaml."""
    if not makes_students(student.method.options):
        yield f".method {student.method.name} learns from data; here fit: {', '.join(fitting_methods())}"
    yield from wrong_nfe(student)
    yield from wrong_steps(student)
    yield from wrong_teacher(student, params)
    yield from wrong_init(student, params)
    yield from wrong_split(student, params)
    yield from wrong_guidance(student, params)
    yield from wrong_lora(student, params)
    couplings = [f"{stage}/{made}" for stage in ("couple", "trajectories") for made in params.keys(stage)]
    couplings.append("prepare")
    if student.train_on not in couplings:
        yield f".train_on {student.train_on!r} does not exist; there are: {', '.join(couplings)}"
    elif student.teacher in params.keys("search") and (problem := mismatch(student, params)):
        yield f": {problem}"


def wrong_steps(student: StudentSettings) -> Iterator[str]:
    """Yield why a student's method can't train for so many steps, if it can't."""
    if student.nfe == "any":
        return
    try:
        student.method.options.check_steps(student.nfe)
    except UserError as error:
        yield f".method {student.method.name}: {error}"


def wrong_nfe(student: StudentSettings) -> Iterator[str]:
    """Yield what is wrong with the number of calls that a student is to take."""
    method = student.method.options
    if method.trained_times == "until_1" and student.nfe != 1:
        yield f".nfe {student.nfe}: method {student.method.name} trains to jump to data; set it to 1"
    any_number = method.needs.second_time or method.needs.last_velocity
    if (student.nfe == "any") == any_number or method.trained_times == "until_1":
        return
    if student.nfe == "any":
        yield f".nfe any is for flow maps; method {student.method.name} needs a number"
    else:
        yield f".nfe {student.nfe}: method {student.method.name} trains for any number; set it to any"


def wrong_teacher(student: StudentSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with a student's teacher."""
    teacher, nfe = student.teacher, student.nfe
    there = [*teachers(params), *params.keys("reflow")]
    if teacher in params.keys("distill"):
        yield f".teacher {teacher!r} is a student, which can't teach; {suggest(teacher, there)}"
    elif teacher not in there:
        yield f".teacher {no_model(teacher, there)}"
    elif teacher not in params.keys("search"):
        yield f".teacher {teacher!r} is not searched: add search.{teacher}"
    elif (solver := params.config("search", teacher).solver) != "euler":
        yield (
            f" learns Euler steps, but search.{teacher}.solver is {solver!r}; search its teacher for euler"
        )
    elif nfe != "any" and nfe not in (budgets := params.config("search", teacher).budgets):
        yield (
            f".nfe {nfe} is not among the budgets searched for {teacher}, {list(budgets)}; add it to "
            f"search.{teacher}.budgets"
        )
    if student.method.options.needs.score and (why := no_score(teacher, params)):
        yield f".method {student.method.name} compares scores, but {why}"


def wrong_init(student: StudentSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with the model that a student starts from."""
    init = student.init
    if init not in (there := models(params)):
        yield f".init {no_model(init, there)}"
    elif init in params.keys("distill") and (nfe := params.config("distill", init).nfe) not in (
        "any",
        student.nfe,
    ):
        yield (
            f".init {init!r} takes {nfe} NFE, the student is to take {student.nfe}; start from a "
            "student of as many, or from its teacher"
        )
    elif student.method.options.needs.last_velocity:
        yield from wrong_refiner(student)
    elif is_refiner(init, params):
        yield f".init {init!r} is a refiner, which is no flow without its teacher; start from that"
    elif student.method.options.needs.flow_map and not is_flow_map(student, params):
        yield (
            f".init {init!r} is no flow map, which method {student.method.name} trains further; start from "
            "a student with nfe any"
        )
    elif student.model is None and (told := forgotten(guidance_range(params, init), student.method.options)):
        yield f".init {init!r} {told}"
    elif student.model is None and takes_until(params, init):
        try:
            student.method.options.check_flow_map()
        except UserError as error:
            method = student.method.name
            yield f".init {init!r} is a flow map, whose steps method {method} would make it forget: {error}"


def forgotten(known: guidance_ranges.Range | None, method: Method) -> str | None:
    """Say that a method would train at one scale what knows a range of guidance, None if all is well."""
    if known is None or method.needs.guidance_input:
        return None
    return (
        f"takes guidance from {known[0]:g} to {known[1]:g} as an input, which a training at one scale would "
        "make it forget; start from its teacher, or use a method with a range for its guidance"
    )


def must_keep_guidance(name: str, init: "ModelConfig", method: Method) -> None:
    """Refuse to train a student further at one scale of guidance that takes the scale as an input.

    Args:
        name: Of the model that the student starts from.
        init: Its config.
        method: What is to train it.

    Raises:
        UserError: naming the scales.
    """
    if told := forgotten(init.guidance_range, method):
        raise UserError(f"{name} {told}")


def wrong_split(student: StudentSettings, params: Params) -> Iterator[str]:
    """Yield why a student's blocks can't be split between the two times of a step, if they are to be."""
    if student.split_after is None:
        return
    if not student.method.options.needs.second_time:
        yield f".split_after is for flow maps, and method {student.method.name} trains none; set it to null"
    elif student.model is None and takes_until(params, student.init):
        yield f".split_after: init {student.init!r} is given the end of a step already; set it to null"
    model = student.model or architecture_of(params, student.init)
    if model is None:
        return
    if not hasattr(model.options, "check_split"):
        yield f".split_after is for networks such as dit, and {model.name} is none; set it to null"
        return
    try:
        model.options.check_split(student.split_after)
    except UserError as error:
        yield f": {error}"


def wrong_refiner(student: StudentSettings) -> Iterator[str]:
    """Yield what is wrong with a student that refines its teacher."""
    if student.init != student.teacher:
        yield (
            f".init {student.init!r} must be {student.teacher!r}, its teacher, which gives a refiner its "
            "shape and classes"
        )
    if student.model is None:
        yield ".model null: a refiner has an architecture of its own, smaller than its teacher's; name it"


def is_flow_map(student: StudentSettings, params: Params) -> bool:
    """Return whether a student starts as a flow map; an adopted model says it itself, when it is read."""
    adopted = student.init in params.keys("adopt")
    return student.model is None and (adopted or takes_until(params, student.init))


def wrong_guidance(student: StudentSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with the guidance that a method teaches: its own, or that of a teacher it asks."""
    method = student.method.options
    guidance = method.trained().get("baked_guidance")
    if guidance is None:
        return
    if (scales := method.trained().get("guidance_range")) is not None:
        yield from wrong_range(scales, student, params)
        return
    taught = guidance
    if method.needs.teacher:
        yield from unguidable(params, [(".method.guidance", guidance, student.teacher)])
        taught = shown_guidance(params, student.teacher, guidance)
    if (before := shown_guidance(params, student.init)) not in (1, taught):
        yield (
            f".method.guidance {guidance} would undo the guidance {before:g} that its init {student.init} "
            "was taught; make them equal"
        )
    if method.needs.stream in ("pairs", "trajectories"):
        asked, model = guidance_in(params, student.train_on)
        if (made := shown_guidance(params, model, asked)) != taught:
            yield (
                f".method.guidance {guidance}: {student.train_on} has guidance {made:g}, and one student "
                "can't learn both; make them equal"
            )


def wrong_range(scales: guidance_ranges.Range, student: StudentSettings, params: Params) -> Iterator[str]:
    """Yield what is wrong with the models that a student learns a range of guidance from."""
    before = {"init": student.init}
    if student.method.options.needs.teacher:
        before["teacher"] = student.teacher
        yield from unguidable(params, [(".method.guidance", scales[-1], student.teacher)])
    for role, model in before.items():
        if (shows := shown_guidance(params, model)) != 1:
            yield (
                f".method.guidance {guidance_ranges.shown(scales)} starts from 1, but its {role} {model} "
                f"shows guidance {shows:g} unasked; take one that shows none"
            )


def fitting_methods() -> list[str]:
    """Return the methods that can train a student."""
    methods = {name: registry.find("fewstep.methods", name) for name in registry.available("fewstep.methods")}
    return [name for name, method in methods.items() if fits(method)]


def fits(method: type[Method]) -> bool:
    """Return whether a method makes students by its default options; one that has none counts as one."""
    try:
        return makes_students(method())
    except TypeError:
        return True


def makes_students(method: Method) -> bool:
    """Return whether a method makes more of a model than its training on data did."""
    needs = method.needs
    own_kind = needs.second_time or needs.last_velocity
    return needs.stream != "data" or own_kind or method.trained_times != "all"


def mismatch(student: StudentSettings, params: Params) -> str | None:
    """Say why a student can't learn from what it trains on, None if it can."""
    method, (kind, _, source) = student.method, student.train_on.partition("/")
    needs = method.options.needs
    wanted = {"trajectories": "trajectories", "pairs": "couple", "data": "prepare"}.get(needs.stream)
    if wanted not in (None, kind):
        place = wanted if wanted == "prepare" else f"{wanted}/{taken_for(student, wanted, params)}"
        return (
            f"method {method.name}{needs.with_option('stream')} learns from {wanted}, not from "
            f"{student.train_on}; set train_on to {place}"
        )
    if needs.data and needs.stream == "noise" and kind != "prepare":
        return (
            f"method {method.name}{needs.with_option('data')} learns from real data, not from "
            f"{student.train_on}; set train_on to prepare"
        )
    if kind == "trajectories" and source != student.teacher:
        return f"{student.train_on} is not of its teacher; use trajectories/{student.teacher}"
    if needs.all_states and kind == "trajectories" and params.config(kind, source).keep != "all":
        return (
            f"method {method.name}{needs.with_option('all_states')} learns from states between the "
            f"timesteps; set trajectories.{source}.keep to all"
        )
    if kind == "couple" and (pairs := params.config(kind, source)).model == student.teacher:
        grid = params.config("search", student.teacher)
        if pairs.guidance != grid.guidance:
            return (
                f"{student.train_on} has guidance {pairs.guidance}, the grid of its teacher, "
                f"search.{student.teacher}, has {grid.guidance}; make them equal"
            )
    return None


def taken_for(student: StudentSettings, stage: str, params: Params) -> str:
    """Return the key of couple or trajectories that a student may learn from, KEY if there is none."""
    if stage == "trajectories":
        return student.teacher
    keys = params.keys(stage)
    of_teacher = [key for key in keys if params.config(stage, key).model == student.teacher]
    return next(iter(of_teacher or keys), "KEY")


def must_continue(name: str, init: "ModelConfig", own: "Grid | None") -> None:
    """Refuse to train a student further on another grid than it was trained for.

    Args:
        name: Of the model that the student starts from.
        init: Its config.
        own: The grid that the student is to take; None for one of any.

    Raises:
        UserError: naming both grids.
    """
    if (
        init.trained_times == "grid"
        and init.grid is not None
        and (own is None or init.grid.times != own.times)
    ):
        other = "any grid" if own is None else list(own.times)
        raise UserError(
            f"{name} was trained for the grid {list(init.grid.times)}, and can't be trained further for "
            f"{other}; give both students the same teacher, or let this one start from its teacher"
        )
