"""Networks of which each process holds a part of the weights, by torch's FSDP2; alone, nothing here is used.

Weights, gradients, moments and averages are then DTensors. A block's weights are gathered while it computes,
and its gradients are averaged while the blocks before it compute theirs. The training state on the disk holds
whole tensors, so any number of processes can resume from it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

from fewstep import distributed
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

with lazy_imports():
    from torch.distributed import device_mesh, fsdp
    from torch.distributed import tensor as dtensors


def shard(network: nn.Module, blocks: Iterable[nn.Module], *, offload: bool = False) -> None:
    """Keep of each weight this process's part alone; all processes must have the same weights.

    With `offload` the parts lie in the memory of the machine, and a block's weights come to the device
    while it computes.

    Raises:
        UserError: if a weight is a single number.
    """
    for name, weight in network.named_parameters():
        if not weight.dim():
            raise UserError(f"FEWSTEP_SHARD: {name} is a single number, which has no parts; set it to off")
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # no method changes outputs in place
    where = next(network.parameters()).device.type
    mesh = device_mesh.init_device_mesh(where, (distributed.ranks(),))
    policy = fsdp.CPUOffloadPolicy(pin_memory=where != "cpu") if offload else fsdp.OffloadPolicy()
    for part in (*blocks, network):
        fsdp.fully_shard(part, mesh=mesh, offload_policy=policy)


def gathered(network: nn.Module) -> list[Tensor]:
    """Return the weights in which a sharded network computes; none of another.

    FSDP2 makes them once, and never again asks the sharded ones whether they need gradients.
    """
    found: list[Tensor] = []
    for part in network.modules():
        weights = part.parameters
        if _is_sharded(part):
            part.unshard()
            found += [weight for weight in weights() if not is_part(weight)]
            part.reshard()
    return found


def last_of_update(network: nn.Module, last: bool) -> None:
    """Say whether the next backward pass is the last of an update: then gradients are exchanged."""
    if _is_sharded(network):
        network.set_requires_gradient_sync(last)


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether this process holds a part of a tensor; it does not import torch's part for that."""
    return hasattr(tensor, "full_tensor")


def _is_sharded(network: nn.Module) -> TypeGuard[fsdp.FSDPModule]:
    return hasattr(network, "set_requires_gradient_sync")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, which must all ask for it; others as they are."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def held_as(held: Tensor, tensor: Tensor) -> Tensor:
    """Return a whole tensor in the way that `held` is held: this process's part of it, or all."""
    if not is_part(held) or is_part(tensor):
        return tensor
    there = tensor.to(held.device)  # each process has read all of it
    return dtensors.distribute_tensor(there, held.device_mesh, held.placements, src_data_rank=None)


def load(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load whole tensors, or those that this process held, into a network."""
    held = network.state_dict()
    network.load_state_dict({name: held_as(held[name], tensor) for name, tensor in tensors.items()})


class Shell:
    """A network without its weights, to which they come back when each process holds a part of them."""

    def __init__(self, network: nn.Module) -> None:
        empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()}
        self.network = copy.deepcopy(network, empty)

    def filled(self, sharded: nn.Module) -> nn.Module:
        """Return the network with the weights of `sharded`; all processes must ask for it."""
        tensors = {name: whole(tensor) for name, tensor in sharded.state_dict().items()}
        self.network.load_state_dict(tensors, assign=True)
        return self.network
