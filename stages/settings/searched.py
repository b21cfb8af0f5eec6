"""What must hold between a search and its model: one with a velocity, a jittered student, or a flow map."""

from collections.abc import Iterator
from typing import Any

from fewstep.searches import keeping_to_timesteps
from stages.settings.models import (
    equal_steps,
    flow_maps,
    guidance_range,
    jittered,
    missing_flows,
    shown_guidance,
    unguidable,
)
from stages.settings.params import Params


def wrong_searched(params: Params) -> list[str]:
    """Return what is wrong with the models that are searched, and those that they are compared with."""
    configs = {key: params.config("search", key) for key in params.keys("search")}
    students, maps = jittered(params), flow_maps(params)
    problems = missing_flows(
        params, [(f"search.{key}", key) for key in configs if key not in students | maps]
    )
    asked = {
        key: students.get(key) or (config.teacher if key in maps else key) for key, config in configs.items()
    }
    problems += unguidable(
        params, [(f"search.{key}.guidance", config.guidance, asked[key]) for key, config in configs.items()]
    )
    for key, config in configs.items():
        where = f"search.{key}"
        if key in students:
            told = wrong_student(config, key, students[key], params)
        elif key in maps:
            told = wrong_map(config, key, maps[key], params)
        else:
            told = wrong_teacher(config, {key: "the model itself"})
        problems += [f"{where}{problem}" for problem in told]
    return problems


def wrong_teacher(config: Any, known: dict[str, str]) -> Iterator[str]:
    """Yield why a search, a Config of it, names a teacher that is none of those known, by what they are."""
    if config.teacher not in known:
        named = " or ".join(f"{name!r}, {what}" for name, what in known.items())
        yield f".teacher {config.teacher!r} must be {named}"


def wrong_student(config: Any, key: str, teacher: str, params: Params) -> Iterator[str]:
    """Yield what is wrong with the search of a student with jittered timesteps."""
    yield from wrong_teacher(config, {teacher: "its teacher"})
    nfe = params.config("distill", key).nfe
    if config.method.options.all_times:
        yield (
            f".method {config.method.name} asks for velocities at all times, but a student knows those near "
            f"its timesteps alone; use {' or '.join(keeping_to_timesteps())}"
        )
    if config.budgets != (nfe,) or config.solver != "euler":
        yield f" is of a student of {nfe} euler steps: set budgets to [{nfe}], solver to euler"
    if teacher in params.keys("search"):
        wanted = params.config("search", teacher).guidance
        if config.guidance != wanted:
            yield f".guidance {config.guidance} must be {wanted}, that of its teacher's search"


def wrong_map(config: Any, key: str, teacher: str, params: Params) -> Iterator[str]:
    """Yield what is wrong with the search of a flow map."""
    yield from wrong_teacher(config, {key: "the model itself", teacher: "its teacher"})
    if equal_steps(params, key) is not None:
        yield f": {key} was trained for equal steps alone, and takes none that are searched; leave it out"
    if config.solver != "euler":
        yield f".solver {config.solver}: the steps of a flow map are Euler steps; set it to euler"
    if config.teacher == teacher and guidance_range(params, key):
        yield from unguidable(params, [(".guidance", config.guidance, key)])
    elif config.teacher == teacher:
        shown, learnt = shown_guidance(params, teacher, config.guidance), shown_guidance(params, key)
        if shown != learnt:
            yield (
                f".guidance {config.guidance}: {teacher} then shows guidance {shown:g}, and {key} learnt "
                f"{learnt:g}; make them equal"
            )
