"""All checks of params.yaml: each section, what holds across sections, dependency cycles.

`fewstep check` does them and nothing else, before DVC reads params.yaml its own way.
"""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.renamed import MOVED
from fewstep.secrets import holds_secret
from stages.settings import discovery, messages, yaml_text
from stages.settings.params import PARAMS, Params, texts

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
UNSEEN = ("size", "nfiles")

Made = tuple[str, str | None]  # a stage and its key


def read_checked(file: Path = PARAMS) -> Params:
    """Read the settings, with every section decoded and checked.

    Raises:
        UserError: if anything is wrong; the message has a line for each problem.
    """
    params = Params.read(file)
    check(params)
    return params


def check(params: Params) -> None:
    """Decode and check every section.

    Raises:
        UserError: if anything is wrong; the message has a line for each problem.
    """
    problems = list(wrong_sections(params))
    if not problems:  # checks across sections need sections that are right in themselves
        modules = [discovery.load(stage) for stage in discovery.names()]
        problems = [line for module in modules if hasattr(module, "check") for line in module.check(params)]
    if problems := problems or dependency_cycles(params):
        raise UserError("params.yaml has mistakes:\n" + "\n".join(f"  {line}" for line in problems))


def wrong_sections(params: Params) -> Iterator[str]:
    """Yield what is wrong with sections, each by itself."""
    seed, names = params.seed, discovery.names()
    if type(seed) is not int or not 0 <= seed < 2**32:
        yield f"seed should be a whole number from 0 to 2**32 - 1, got {yaml_text.shown(seed)}"
    for name in params.raw:
        if name not in ("seed", *names):
            yield f"{name} is no stage; {messages.suggest(str(name), names)}"
    for path in (path for path, text in texts(params.raw) if holds_secret(text)):
        yield f"{path} holds a secret, which git, DVC and the tracker would show; put it into the environment"
    for path in unseen_by_dvc(params.raw):
        yield f"{path} can't be a setting's name: DVC would miss when it changes"
    for stage in names:
        if stage not in params.raw:
            yield f"{stage} is missing: every stage needs a section of its settings, such as `{stage}: {{}}`"
        elif not discovery.keyed(stage):
            yield from wrong_settings(params, stage, None)
        elif not isinstance(section := params.raw[stage], dict):
            told = yaml_text.shown(section)
            yield f"{stage} should be a mapping of names to settings, such as {{}}, got {told}"
        elif old := [f"{stage}.{key}" for key in section if f"{stage}.{key}" in MOVED]:
            yield f"{', '.join(f'{place} is {MOVED[place]}' for place in old)} now; KEY is the model's name"
        else:
            for key in section:
                yield from wrong_key(stage, key) or wrong_settings(params, stage, key)


def wrong_key(stage: str, key: Any) -> list[str]:
    """Return what is wrong with a key of a stage."""
    if not isinstance(key, str):
        told = yaml_text.shown(key)
        return [f"{stage}.{told}: write a word for {told}; DVC silently defines no stage for other keys"]
    if not WORD.fullmatch(key):
        return [f"{stage}.{key}: names are letters, digits, - and _, or DVC can't address them"]
    return []


def wrong_settings(params: Params, stage: str, key: str | None) -> list[str]:
    """Return what is wrong with the settings of one stage and key."""
    try:
        params.config(stage, key)
    except UserError as error:
        return str(error).splitlines()
    return []


def unseen_by_dvc(settings: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of settings called size or nfiles, at any depth, in lists too.

    DVC leaves these names out of the key of its run cache (dvc.stage.cache, _get_cache_hash), so it would
    give a changed setting the result of the old one.
    """
    named = dict(enumerate(settings)) if isinstance(settings, list) else settings
    for name, value in named.items() if isinstance(named, dict) else ():
        place = f"{path}.{name}" if path else str(name)
        if name in UNSEEN:
            yield place
        yield from unseen_by_dvc(value, place)


def dependency_cycles(params: Params) -> list[str]:
    """Return what is wrong if some stages wait for each other, with the settings that make them."""
    makers = params.outputs()
    needs = {
        made: {makers[path] for path in params.inputs(*made).values() if path in makers}
        for made in makers.values()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return [describe(error.args[1][::-1], params)]  # graphlib puts what is needed first
    return []


def describe(stages: list[Made], params: Params) -> str:
    """Return a message that each of these stages needs the next; the last is the first."""
    names = [
        f"{stage}.{key}.{name} {value!r}"
        for (stage, key), (_, needed) in pairwise(stages)
        for name, value in params.config(stage, key)
        if isinstance(value, str) and value.rpartition("/")[2] == needed
    ]
    chain = ", which needs ".join(discovery.address(*made) for made in stages)
    return f"{', '.join(names)} makes a cycle: {chain}; name a model made before, such as a teacher"
