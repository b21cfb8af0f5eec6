"""Settings: the base of every Config, and settings that name a file of the library and its options."""

import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticCustomError, core_schema

from fewstep import noises, paths, registry
from fewstep.errors import UserError, first_line
from fewstep.training.method import Method
from stages.settings import messages
from stages.settings.yaml_text import shown

STRICT = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Settings(BaseModel):
    """Named values from params.yaml: an unknown one is an error, as is a number that is not finite."""

    model_config = STRICT


Precision = Literal["float32", "bfloat16"]


def fact_of_precision(precision: Precision) -> dict[str, str]:
    """Return what is noted of it: nothing of float32, which was all there was once."""
    return {} if precision == "float32" else {"precision": precision}


SOLVERS, SAMPLERS = "fewstep.solvers", "fewstep.samplers"


@dataclass(frozen=True)
class Named:
    """A file of a registry package that settings name, with its options."""

    name: str
    options: Any
    """The method, model or search itself: an instance of the dataclass that the file defines."""

    def named(self) -> dict[str, Any]:
        """Return the name and every option, defaults included, as plain values."""
        return {"name": self.name} | asdict(self.options)


@cache  # a model takes much longer to make than settings to decode, and each is asked for many times
def wrapping(plugin: type) -> Any:
    """Return a model of one field, `options`: only a model forbids dataclasses extra names and NaN."""
    model = create_model("Options", __config__=STRICT, options=(plugin, ...))
    model.model_rebuild()  # raises for a name that no module has, which pydantic would put off
    return model


@dataclass(frozen=True)
class Plugin:
    """A setting of the form `name` or `{name: ..., options}` that names a file of `package`."""

    package: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Tell pydantic how to read such a setting, and how to write it in full."""
        return core_schema.no_info_plain_validator_function(
            self.decode,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: json.loads(json.dumps(value.named()))
            ),
        )

    def decode(self, value: Any) -> Named:
        """Return what `value` names.

        Raises:
            PydanticCustomError: if there is no such file or option, or an option's value is impossible.
        """
        if isinstance(value, Named):
            return value
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            self.refuse([((), f" must be a name, or a mapping with a name, got {value!r}")])
        try:
            plugin = registry.find_settings(self.package, options["name"])
        except UserError as error:
            self.refuse([((), f": {error}")])
        try:
            wrapper = wrapping(plugin)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            file = registry.file_of(self.package, options["name"])
            told = first_line(error).rstrip(".")
            self.refuse(
                [
                    (
                        (),
                        f": {file}: an option of {plugin.__name__} has a type that no setting can have: "
                        f"{told}; give it one such as int, float, str or a list of these",
                    )
                ]
            )
        try:
            built = wrapper(options={k: v for k, v in options.items() if k != "name"})
        except ValidationError as error:
            self.refuse([(where[1:], text) for where, text in messages.found(error, wrapper)])
        return Named(options["name"], built.options)

    @staticmethod
    def refuse(problems: list[tuple[tuple, str]]) -> None:
        """Hand problems, places counted from this setting, to whoever explains the whole section."""
        raise PydanticCustomError("plugin", "names no usable plugin", {"problems": problems})


def known_solver(name: str) -> str:
    """Return the name of a solver, if there is such a one.

    Raises:
        UserError: if there is none; a sampler has a message of its own.
    """
    names = registry.available(SOLVERS)
    if name in registry.available(SAMPLERS):
        raise UserError(
            f"{name} is a sampler, whose samples are not those of the flow; "
            f"evaluate.samplers alone takes it. Take a solver: {', '.join(names)}"
        )
    if name not in names:
        raise UserError(registry.unknown(registry.singular(SOLVERS), name, names))
    return name


def known_path(path: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return a path's name, or the mapping of its name and options, if there is such a path.

    Raises:
        UserError: if there is none.
    """
    paths.get(path)
    return path


def known_noise(noise: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return a law of noise in its one form, with its options, if there is such a law.

    Raises:
        UserError: if there is none.
    """
    return noises.get(noise).named()


def one_scale(guidance: Any) -> Any:
    """Return a scale of guidance as it is given, unless it is a list of several.

    Raises:
        UserError: if it is; DVC makes a stage of each key, and can make no keys of a list.
    """
    if isinstance(guidance, list):
        raise UserError(
            f"one key takes one scale, got {shown(guidance)}; write a key for each, see docs/conditions.md, "
            f"or run the chain for each: fewstep sweep --grid SETTING={shown(guidance).replace(' ', '')}"
        )
    return guidance


Count = Annotated[int, Field(ge=1)]
Guidance = Annotated[float, BeforeValidator(one_scale)]
METHODS = Plugin("fewstep.methods")
MethodPlugin = Annotated[Any, METHODS]
FormatPlugin = Annotated[Any, Plugin("fewstep.foreign.formats")]
ModelPlugin = Annotated[Any, Plugin("fewstep.models")]
PathChoice = Annotated[str | dict[str, Any], AfterValidator(known_path)]
ExportPlugin = Annotated[Any, Plugin("fewstep.exports")]
BackendPlugin = Annotated[Any, Plugin("fewstep.metrics.backends")]
NoiseChoice = Annotated[str | dict[str, Any], AfterValidator(known_noise)]
SearchPlugin = Annotated[Any, Plugin("fewstep.searches")]
SamplerPlugin = Annotated[Any, Plugin(SAMPLERS)]
SolverName = Annotated[str, AfterValidator(known_solver)]


def method_of(settings: dict[str, Any]) -> Method:
    """Return the method that settings of a manifest name."""
    return METHODS.decode(settings).options
