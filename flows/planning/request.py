"""What a run is asked for, written once: the flows' parameters and forms, and the command line's options.

Each field's documentation is the help text of the option and the description in the form of Prefect's page.
"""

import inspect
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import docstring_parser
from cyclopts import Parameter, Token

from fewstep.errors import UserError
from stages.settings import yaml_text
from stages.tracking import recording

Function = TypeVar("Function", bound=Callable)


def settings(kind: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    """Decode the words KEY=VALUE of the command line; values are written as in params.yaml.

    Raises:
        UserError: A word has no key or no `=`, its value is no YAML, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for token in tokens:
        key, equals, text = token.value.partition("=")
        if not (key and equals):
            example = "seed=[0,1]" if token.keyword == "--grid" else "seed=1"
            raise UserError(f"needs KEY=VALUE, such as {example}, got {token.value!r}")
        if key in found:
            raise UserError(f"{token.value}: {key} has a value already; give it one")
        try:
            found[key] = yaml_text.read(text, token.value)
        except UserError as error:
            hint = "; put the word in quotes" if text[:1] in ("[", "{") else ""  # or the shell splits it
            raise UserError(f"{error}{hint}") from None
    return found


def words(option: str) -> Parameter:
    """Return how a mapping is written on the command line: `option` KEY=VALUE, as often as needed."""
    return Parameter(
        name=option,
        converter=settings,
        accepts_keys=False,
        n_tokens=-1,
        show_default=False,
    )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which stages run, and with which settings."""

    start_from: str | None = None
    """A stage such as distill@boss-4, or distill for all its keys, or several with commas between them. It
    and all stages that need its output run. What it needs itself must be up to date."""
    only: str | None = None
    """A stage such as evaluate, or several with commas between them. It alone runs. What it needs must be up
    to date."""
    force: bool = False
    """Run the chosen stages even if they are up to date."""
    overrides: Annotated[dict[str, Any], words("--set")] = field(default_factory=dict)
    """Settings of params.yaml by dotted name, such as distill.boss-4.train.steps=800. The run uses them in a
    workspace of its own under .fewstep/variants, and the project stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Request(Choice):
    """What a run of the pipeline is asked for."""

    experiment: str | None = None
    """The MLflow experiment that records the runs. The default is fewstep."""
    dry_run: bool = False
    """Run nothing. Report which stages would run and how long they took the last time."""

    def command(self, failed: list[str]) -> str:
        """Return the command that continues after these stages failed."""
        words = ["fewstep", "run"]
        if self.only:  # a stage that it does not name had to come back first, and those it names wait for it
            words += ["--only", ",".join(failed) if all(map(self.only_names, failed)) else self.only]
        elif self.start_from or self.force or len(failed) == 1:  # by force, all others would run again
            words += ["--start-from", ",".join(failed)]
        words += ["--force"] if self.force else []
        for key, value in self.overrides.items():
            words += ["--set", f"{key}={yaml_text.written(value)}"]
        if self.experiment:
            words += ["--experiment", self.experiment]
        return shlex.join(words)

    def only_names(self, stage: str) -> bool:
        """Return whether a stage is one of those that alone run."""
        return not {stage, stage.partition("@")[0]}.isdisjoint((self.only or "").split(","))

    def recorded(self, pipeline: str) -> AbstractContextManager[None]:
        """Record the runs of stages in the right experiment, under the tracker's run of that name."""
        experiment = {recording.EXPERIMENT: self.experiment} if self.experiment else {}
        return recording.recorded(**{recording.PIPELINE: pipeline}, **experiment)


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What a sweep is asked for."""

    grid: Annotated[dict[str, list[Any]], words("--grid")] = field(default_factory=dict)
    """Lists of values by dotted setting, such as distill.boss-4.train.steps=[200,400]. Every combination
    is a variant."""
    variants: Annotated[list[dict[str, Any]], Parameter(parse=False)] = field(default_factory=list)
    """Further variants, each a mapping of dotted settings to values, such as {"seed": 1}."""
    experiment: str = "fewstep-sweep"
    """The MLflow experiment that records all variants."""


def takes(request: type) -> Callable[[Function], Function]:
    """Return a decorator: the fields of `request` take the place of a flow function's `**asked`.

    Prefect reads a flow's form from its signature and its docstring, in which `**asked` has its own line.
    """

    def decorate(function: Function) -> Function:
        shown, docs, types = inspect.signature(function), documentation(request), get_type_hints(request)
        own = [one for one in shown.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default if one.default_factory is MISSING else one.default_factory(),
                annotation=types[one.name],
            )
            for one in fields(request)
        ]
        described = "\n".join(f"    {one.name}: {docs[one.name]}" for one in taken)
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = re.sub(r"^    \*\*asked: .*$", lambda _: described, text, flags=re.MULTILINE)
        function.__signature__ = shown.replace(parameters=[*own, *taken])  # type: ignore[attr-defined]
        return function

    return decorate


def documentation(request: type) -> dict[str, str]:
    """Return the documentation of each field, on one line."""
    found = {}
    for kind in reversed(request.__mro__[:-1]):
        for one in docstring_parser.parse_from_object(kind).params:
            found[one.arg_name] = " ".join((one.description or "").split())
    return found
