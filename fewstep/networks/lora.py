"""Low-rank adapters inside of a network, by the library peft: put in, merged, and named in files.

An adapted layer holds its own weights, frozen, as its `base_layer`, and those of the adapter beside them. In
files the first keep the name that they have in a network without adapter.
"""

from __future__ import annotations

import math

from torch import nn

from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports
from fewstep.lora_settings import LoraSettings
from fewstep.networks.embedding import Added

with lazy_imports(error_callback=brought_by("foreign", what="lora", library="peft")):
    import peft
    from peft.tuners.lora import layer as layers

ADAPTER = "default"  # what peft calls an adapter that nobody named


def put_in(network: nn.Module, settings: LoraSettings) -> None:
    """Freeze a network's weights, and put adapters into its layers, which add nothing until they are trained.

    What is drawn comes from torch's global generator.

    Raises:
        UserError: if a target is no layer of the network, or one that can't be adapted, or the rank is above
            that of its weights.
    """
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only divides it
        target_modules=targets(network, settings),
    )
    network.requires_grad_(False)  # also if peft, one day, leaves weights of other layers alone
    peft.inject_adapter_in_model(config, network)


def targets(network: nn.Module, settings: LoraSettings) -> list[str]:
    """Return the names of the layers that are adapted.

    Raises:
        UserError: see `put_in`.
    """
    there = dict(network.named_modules())
    if settings.targets is None:
        found = [name for name, layer in there.items() if (full_rank(layer) or 0) > settings.rank]
        if not found:
            raise UserError(
                f"lora.rank {settings.rank} makes no layer of the network smaller; take a lower one"
            )
        return found
    chosen = []
    for target in settings.targets:
        own = [name for name in there if f".{name}".endswith(f".{target}")]
        if not own:
            adaptable = [name for name in there if full_rank(there[name]) is not None]
            raise UserError(
                f"lora.targets: the network has no layer {target!r}; names end for example with "
                f"{', '.join(endings(adaptable))}"
            )
        chosen += own
    for name in chosen:
        if (rank := full_rank(there[name])) is None:
            kind = type(there[name]).__name__
            raise UserError(
                f"lora.targets: {name} is of type {kind}; linear layers and convolutions can be adapted"
            )
        if settings.rank > rank:
            raise UserError(
                f"lora.rank {settings.rank} is above that of the weights of {name}, {rank}; take a lower "
                "one, or leave the layer out of lora.targets"
            )
    return list(dict.fromkeys(chosen))


def must_learn_what_is_added(network: nn.Module, settings: LoraSettings) -> None:
    """Refuse an adapter without which what a network was given beside its first time has no effect for ever.

    The last layer of an embedding that was added to a network starts at zero. Frozen, it stays so.

    Raises:
        UserError: naming the layer, and see `put_in`.
    """
    chosen = targets(network, settings)
    for name, part in network.named_modules():
        if not isinstance(part, Added) or any(weight.any() for weight in part[-1].parameters()):
            continue
        last = f"{name}.{len(part) - 1}"
        if last in chosen:
            continue
        if settings.targets is None:
            raise UserError(
                f"lora.rank {settings.rank} leaves out {last}, which starts at zero and would stay so: the "
                f"student could not learn what {name.rpartition('.')[2]} does; take a lower one"
            )
        raise UserError(
            f"lora.targets leave out {last}, which starts at zero and would stay so: the student could not "
            f"learn what {name.rpartition('.')[2]} does; add {'.'.join(last.split('.')[-2:])} to them"
        )


def full_rank(layer: nn.Module) -> int | None:
    """Return the largest rank that the weights of a layer can have; None if it can't be adapted."""
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
        return min(layer.weight.shape[0], math.prod(layer.weight.shape[1:]))
    return None


def endings(names: list[str]) -> list[str]:
    """Return the first eight of the last words of names, each once, with the word before a number."""
    found = (name.rpartition(".") for name in names)
    words = (f"{head.rpartition('.')[2]}.{last}" if last.isdecimal() else last for head, _, last in found)
    return list(dict.fromkeys(words))[:8]


def take_out(network: nn.Module, *, merge: bool) -> None:
    """Take the adapters out of a network, whose weights get what they added to them if `merge`."""
    for name, layer in adapted(network):
        if merge:
            layer.merge()
        network.set_submodule(name, layer.get_base_layer())
    vars(network).pop("peft_config", None)


def adapted(network: nn.Module) -> list[tuple[str, layers.LoraLayer]]:
    """Return the layers with an adapter, by name."""
    return [(name, part) for name, part in network.named_modules() if isinstance(part, layers.LoraLayer)]


def name_in_file(name: str) -> str:
    """Return how a weight of a network with adapters is called in a file."""
    return name.replace(".base_layer.", ".").replace(f".{ADAPTER}.", ".")


def is_of_adapter(name: str) -> bool:
    """Return whether a weight is an adapter's, by its name in a network or in a file."""
    return ".lora_A." in name or ".lora_B." in name
