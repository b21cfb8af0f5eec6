"""Trainee: a network with its optimiser and the moving average of its weights."""

import copy
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from fewstep import distributed, power_averages
from fewstep.lazy import lazy_imports
from fewstep.optimisers import AdamW, Plain
from fewstep.settings import TrainSettings
from fewstep.training import sharding
from fewstep.training.engine import Engine
from fewstep.training.exchange import Exchange
from fewstep.training.method import Net
from fewstep.training.phases import phase

with lazy_imports():
    from fewstep.training import eight_bit

LOSS_MEMORY = 50  # number of updates in the mean loss
COUNTED = ("loss", "skipped", "in_a_row")  # on the device


class Trainee:
    """A network that the loop updates, and the state that a resumed run needs."""

    def __init__(self, net: Net, settings: TrainSettings, engine: Engine) -> None:
        self.module = net.module.train()
        self.average = _copy(self.module) if net.ema else None
        decays: dict[str, Callable[[int], float]] = {
            name: partial(_ramped, decay) for name, decay in net.averages.items()
        }
        for width in settings.widths:
            decays[width_name(width)] = partial(power_averages.decay, gamma=power_averages.gamma_of(width))
        self.averages = {name: _copy(self.module) for name in decays}
        """Those that the method or the settings ask for, by name."""
        self._shell = sharding.Shell(self.result) if engine.sharded else None
        engine.prepare(self.module)
        for average in self.every_average:
            engine.spread(average)
        self.parameters = [p for p in net.module.parameters() if p.requires_grad]
        self._locked = [*self.parameters, *(p for p in sharding.gathered(net.module) if p.requires_grad)]
        self._open: bool | None = None
        """Whether the weights have gradients, once that was said."""
        self.frozen = {name: p for name, p in net.module.named_parameters() if not p.requires_grad}
        """Weights that stay as they are: averages share them, and the training state does not hold them."""
        kept: list[tuple[nn.Module, Callable[[int], float]]]
        kept = [(self.average, partial(_ramped, settings.ema))] if self.average is not None else []
        kept += [(self.averages[name], decay) for name, decay in decays.items()]
        # These lists are kept, because collecting them takes longer than the average itself.
        self._followed: list[Tensor] = [*self.parameters]
        self._followers: list[tuple[list[Tensor], Callable[[int], float]]] = [
            ([p for name, p in average.named_parameters() if name not in self.frozen], decay)
            for average, decay in kept
        ]
        self._buffers = [pair for average, _ in kept for pair in _buffers(average, net.module)]
        fused = partial(AdamW, fused=True)
        make = eight_bit.EightBitAdamW if settings.moments == "8bit" else fused
        self.optimiser: Plain = make(
            self.parameters, betas=settings.betas, weight_decay=settings.weight_decay
        )
        several = distributed.ranks() > 1 and not engine.sharded  # FSDP2 exchanges by itself
        self._exchange = Exchange(self.parameters) if several else None
        self.rate_scale = net.learning_rate
        self.clip = settings.clip
        self.updates = 0
        device = self.parameters[0].device
        self.loss = torch.zeros((), device=device)
        """Mean loss of the last updates; stays where weights are, because reading it would block a GPU."""
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Updates that were skipped because the loss or its gradient was not finite."""
        self.in_a_row = self.skipped.clone()
        """How many updates in a row were skipped, up to the last one."""

    @property
    def every_average(self) -> list[nn.Module]:
        """All moving averages of the network."""
        return [*self.averages.values(), *([self.average] if self.average is not None else [])]

    @property
    def result(self) -> nn.Module:
        """The network with averaged weights, if an average is kept."""
        return self.module if self.average is None else self.average

    def whole_result(self) -> nn.Module:
        """Return `result` with whole weights; all processes must ask for it."""
        return self.result if self._shell is None else self._shell.filled(self.result)

    def unlock(self, open_: bool) -> None:
        """Switch gradients of the weights on or off."""
        if open_ == self._open:
            return
        self._open = open_
        for parameter in self._locked:
            parameter.requires_grad_(open_)

    def update(
        self, losses: Iterable[Tensor], count: int, rate: float, meanwhile: Callable[[], None]
    ) -> Tensor:
        """Step on the mean of the losses, if it and its gradient are finite; return `in_a_row`.

        Args:
            losses: Of `count` samples, some (n,) at a time, each computed when it is asked for.
            count: How many.
            rate: The learning rate of the loop.
            meanwhile: Called before each backward pass, which leaves Python to other threads.
        """
        self.optimiser.zero_grad()
        loss, seen = torch.zeros_like(self.loss), 0
        for some in losses:
            part = some.sum() / count
            seen += len(some)
            sharding.last_of_update(self.module, seen == count)
            if self._exchange is not None and seen == count:
                self._exchange.begin()
            meanwhile()
            with phase("backward"):
                part.backward()
            loss += part.detach().to(loss.device)
        with phase("exchange"):
            if self._exchange is not None:
                self._exchange.end()
            distributed.average([loss])
        with phase("optimiser"):
            wrong = self._step(loss, rate * self.rate_scale)
        with phase("average"):
            self._follow()
        weight = max(1 / LOSS_MEMORY, 1 / (self.updates + 1))
        self.loss.lerp_(torch.where(wrong, self.loss, loss), weight)
        self.updates += 1
        self.skipped += wrong
        self.in_a_row.add_(1).mul_(wrong)
        return self.in_a_row

    def _step(self, loss: Tensor, rate: float) -> Tensor:
        """Step, unless `loss` or the gradient is not finite; return whether it is left out, on the device."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        whole = sharding.whole(norm)
        wrong = ~torch.isfinite(loss + whole)
        looks = at_hand(wrong)
        if looks and wrong:
            return wrong
        if not looks or whole + 1e-6 > self.clip:  # what is added is clip_grads_with_norm_'s own
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        if not looks:
            self.optimiser.found_inf = wrong.float()  # skips a step, as torch's GradScaler does
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return wrong

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the moving averages."""
        for followers, decay in self._followers:
            torch._foreach_lerp_(followers, self._followed, 1 - decay(self.updates))
        for mine, theirs, name in self._buffers:
            getattr(mine, name).copy_(getattr(theirs, name))

    @property
    def _saved(self) -> dict[str, nn.Module]:
        """The networks of the training state, by the names that their tensors have there."""
        average = {} if self.average is None else {"average": self.average}
        averages = {f"averages/{name}": module for name, module in self.averages.items()}
        return {"network": self.module} | average | averages

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the training state."""
        found = {"updates": torch.tensor(self.updates)} | {name: getattr(self, name) for name in COUNTED}
        for part, module in self._saved.items():
            held = module.state_dict().items()
            found |= {f"{part}/{name}": tensor for name, tensor in held if name not in self.frozen}
        for number, moments in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser/{number}/{name}": tensor for name, tensor in moments.items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors that `tensors` returned."""
        self.updates = int(tensors["updates"])
        for name in COUNTED:
            getattr(self, name).copy_(tensors[name])
        for part, module in self._saved.items():
            sharding.load(module, {**self.frozen, **under(f"{part}/", tensors)})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under("optimiser/", tensors).items():
            number, _, moment = name.partition("/")
            weight = self.parameters[int(number)]
            moments.setdefault(int(number), {})[moment] = (
                sharding.held_as(weight, tensor) if tensor.dim() else tensor
            )
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})

    def restore_result(self, tensors: dict[str, Tensor]) -> None:
        """Restore the weights of `result`, and the other averages with the number of their updates."""
        part = "network" if self.average is None else "average"
        ended = {part: self.result} | {f"averages/{name}": module for name, module in self.averages.items()}
        for part, module in ended.items():
            sharding.load(module, {**self.frozen, **under(f"{part}/", tensors)})
        self.updates = int(tensors["updates"])


def at_hand(tensor: Tensor) -> bool:
    """Return whether a number can be looked at without waiting for a device.

    An update then does nothing that changes nothing, such as to multiply gradients by 1.
    """
    return tensor.device.type == "cpu"


def width_name(width: float) -> str:
    """Return the name, among the networks that a method sees, of the power-function average of a width."""
    return f"width_{width:g}"


def _ramped(decay: float, updates: int) -> float:
    """Return a decay that ramps up over the first updates, as in TensorFlow."""
    return min(decay, (1 + updates) / (10 + updates))


def _copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network, in evaluation mode, that shares its frozen weights."""
    frozen = {id(weight): weight for weight in network.parameters() if not weight.requires_grad}
    return copy.deepcopy(network, frozen).eval()


def _buffers(average: nn.Module, module: nn.Module) -> list[tuple[nn.Module, nn.Module, str]]:
    """Return the parts of an average and of its network that have a buffer, and the buffer's name."""
    parts = zip(average.modules(), module.modules(), strict=True)
    return [(mine, theirs, name) for mine, theirs in parts for name, _ in theirs.named_buffers(recurse=False)]


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, by the rest of the name."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
