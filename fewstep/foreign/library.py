"""Networks of diffusers: built by the library from their config, which must be understood whole."""

import inspect
from typing import Any

from torch import nn

from fewstep import registry
from fewstep.conditions import Shapes
from fewstep.errors import UserError
from fewstep.foreign.adapter import Adapter
from fewstep.foreign.found import Described
from fewstep.lazy import brought_by, lazy_imports

with lazy_imports(error_callback=brought_by("foreign", what="a network of diffusers", library="diffusers")):
    import diffusers

    from fewstep.foreign import two_times

ADAPTERS = "fewstep.foreign.adapters"


def build(
    name: str,
    config: dict[str, Any],
    shape: tuple[int, ...],
    classes: int,
    conditions: Shapes,
    guidance_input: bool,
    *,
    second_time: bool,
    slow_times: bool,
    split_after: int | None,
    time_scale: float,
) -> Adapter:
    """Return the network of class `name`, with weights that its library draws, in its adapter.

    Raises:
        UserError: see fewstep.models.diffusers.Diffusers.build.
    """
    adapter, described = adapter_of(name), describe(name, config)
    refuse_misfit(name, described, shape, classes)
    if (taken := described.taken(conditions)) != dict(conditions):
        raise UserError(
            f"{name} takes the conditions {taken}, not {dict(conditions)}; prepare data with those it takes"
        )
    if guidance_input != described.guidance_input:
        if guidance_input:
            raise UserError(
                f"{name} takes no guidance as an input; set guidance_input to false, and guidance of a "
                "method to one scale"
            )
        raise UserError(f"{name} takes guidance as an input; set guidance_input to true, or build it without")
    try:
        network = network_class(name)(**own_options(config))
    except (TypeError, ValueError) as error:
        raise UserError(f"diffusers can't build {name} from its config: {error}") from error
    if second_time or slow_times:
        spans = second_time and split_after is None
        two_times.give(network, second_time=spans, slow_times=slow_times, time_scale=time_scale)
    if split_after is not None:
        two_times.split(network, split_after)
    return adapter(network, classes, second_time=second_time, slow_times=slow_times)


def describe(name: str, config: dict[str, Any]) -> Described:
    """Return what a network's config says of its samples and classes.

    Raises:
        UserError: if there is no such class or argument, or it needs what fewstep can't supply.
    """
    adapter = adapter_of(name)
    refuse_unknown(name, config)
    return adapter.describe(config)


def adapter_of(name: str) -> type[Adapter]:
    """Return the adapter of a network class.

    Raises:
        UserError: if there is none; the message says why, or which class has one.
    """
    if name.lower() in registry.available(ADAPTERS):
        return registry.find(ADAPTERS, name.lower())
    if "encoder_hidden_states" in inspect.signature(network_class(name).forward).parameters:
        raise UserError(
            f"{name} is conditioned on text, and there is no adapter for it (there are: "
            f"{', '.join(registry.available(ADAPTERS))})"
        )
    raise UserError(
        f"there is no adapter for {name} (there are: {', '.join(registry.available(ADAPTERS))}); write one "
        f"as the file {name.lower()}.py of fewstep/foreign/adapters/"
    )


def network_class(name: str) -> type[nn.Module]:
    """Return a network class of diffusers.

    Raises:
        UserError: if the installed version has none of that name.
    """
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(
            f"diffusers {diffusers.__version__} has no network class {name!r}; install the version that "
            "wrote the folder, or name a class of this one"
        )
    return found


def own_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config without the library's notes, such as the version that wrote it."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def refuse_unknown(name: str, config: dict[str, Any]) -> None:
    """Refuse a config with arguments that the installed class does not have; the library would drop them.

    Raises:
        UserError: naming the first of them, and the versions.
    """
    known = set(inspect.signature(network_class(name).__init__).parameters) - {"self"}
    if unknown := sorted(own_options(config).keys() - known):
        wrote = config.get("_diffusers_version", "an unknown version")
        raise UserError(
            f"{name} of diffusers {diffusers.__version__} has no argument {unknown[0]!r}; its config is of "
            f"{wrote}. Install that version, or remove the argument if it changes nothing"
        )


def refuse_misfit(name: str, described: Described, shape: tuple[int, ...], classes: int) -> None:
    """Refuse samples and classes that a network was not made for.

    Raises:
        UserError: naming both shapes, or both numbers of classes.
    """
    if tuple(shape) != (own := described.shape(shape)):
        raise UserError(
            f"{name} makes samples of shape {own}, but {tuple(shape)} are asked for; "
            "prepare data of the network's shape"
        )
    if wrong := [side for side in shape[1:] if side % described.sides]:
        raise UserError(
            f"{name} makes samples whose sides are multiples of {described.sides}, and not {wrong[0]}; "
            "prepare such data"
        )
    possible = {described.classes}
    if described.labels > 1:
        possible.add(described.labels - 1)  # the last may be the null condition
    if classes not in possible:
        wanted = " or ".join(map(str, sorted(possible, reverse=True)))
        raise UserError(f"{name} has {wanted} classes, not {classes}; set classes to that")
