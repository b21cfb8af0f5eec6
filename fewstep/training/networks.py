"""Training: the networks of a method and the rest of the training state."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import distributed, lora, randomness
from fewstep.errors import UserError
from fewstep.half import halve
from fewstep.model import Model
from fewstep.prefetch import Prefetched, Request
from fewstep.settings import TrainSettings
from fewstep.training.engine import Engine
from fewstep.training.method import Batch, KnownNets, Method
from fewstep.training.phases import phase
from fewstep.training.trainee import Trainee, at_hand, under

HELD_OUT_SEED = (
    randomness.digest64("held out", 0) >> 1
)  # the same for all trainings, so that their losses can be compared; 63 bits
WEIGHT = "weight"  # of a batch: what the loss of each sample is multiplied by
SKIPS = 10  # after this many updates in a row without a finite loss, the training has diverged

Update = tuple[Batch, Prefetched]
"""What one update of a step is made with: a batch, prepared, and the keys of its samples, with numbers."""


class DivergedError(UserError):
    """The training has diverged: its losses are not finite any more."""


class Training:
    """The networks and the rest of the training state."""

    def __init__(
        self,
        method: Method,
        student: Model,
        load: Callable[[str], Model],
        settings: TrainSettings,
        seed: int,
        device: torch.device,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.method, self.settings, self.seed, self.device = method, settings, seed, device
        self.law = student.noise
        self.facts: dict[str, Any] = {  # must equal those of the state on disk
            "layout": 3,
            "method": [type(method).__name__, asdict(method)],
            "settings": asdict(settings),
            "model": asdict(student.config),
            "seed": seed,
        }
        self.engine = Engine.from_environment().usable(device, say)
        if self.engine.sharded and student.config.lora is not None:
            raise UserError(
                "FEWSTEP_SHARD shares out what is trained, of which lora leaves little; set it to off"
            )
        if self.engine.sharded and settings.moments == "8bit":
            raise UserError(
                "FEWSTEP_SHARD shares out moments of float32 alone; set it to off, or moments to float32"
            )
        torch.manual_seed(randomness.digest64("train networks", seed))
        nets = method.networks(student, lambda name: lora.share(must_repeat(load(name)), student))
        self.modules: dict[str, nn.Module] = {name: net.module.to(device) for name, net in nets.items()}
        self.trainees = {
            name: Trainee(net, settings if name == "student" else replace(settings, widths=()), self.engine)
            for name, net in nets.items()
            if net.trains
        }
        shared = {id(weight) for trainee in self.trainees.values() for weight in trainee.module.parameters()}
        for name in nets.keys() - self.trainees.keys():
            frozen = self.modules[name].eval().requires_grad_(False)
            if settings.frozen == "bfloat16" and nets[name].halves:
                halve(weight for weight in frozen.parameters() if id(weight) not in shared)
            self.engine.prepare(frozen)
        for trainee in self.trainees.values():
            for name, average in trainee.averages.items():
                assert name not in self.modules, f"two networks are called {name}"
                self.modules[name] = average.requires_grad_(False)
        self._wanted: dict[str, set[Request]] = {name: set() for name in self.trainees}
        """The random numbers that the loss of each network has asked for."""
        self.step = 0
        self.slowed = 1.0  # what a monitor has multiplied the learning rates by
        self.lost_at = torch.tensor(-1, device=device)  # the first step at which a network had diverged

    @property
    def rate(self) -> float:
        """The student's learning rate in this step."""
        return self.slowed * self.settings.rate(self.step)

    def prepare(self, step: int, batch: Batch, keys: Tensor) -> list[Update]:
        """Return what a step updates with, on the CPU; it may be asked ahead, in another thread."""
        batch, updates = pinned(batch, self.device), []
        for number, network in enumerate(self.method.updates(step)):
            own = randomness.keys_of_update(keys, number)
            prepared = pinned(self._prepared(batch, own), self.device)
            updates.append((prepared, Prefetched(own, self._wanted[network])))
        return updates

    def take_step(self, batch: Batch, keys: Tensor) -> None:
        """Make the updates of this step with a batch that was not prepared ahead."""
        self.update(self.prepare(self.step, batch, keys))

    def update(self, prepared: list[Update], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Make the updates of this step. Each updates one network on its own loss.

        Args:
            prepared: What `prepare` returned for this step.
            meanwhile: Called before each backward pass, which leaves Python to other threads.
        """
        seed = randomness.digest64(f"train step {self.step} rank {distributed.rank()}", self.seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for all kinds of devices
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        for network, (batch, numbers) in zip(self.method.updates(self.step), prepared, strict=True):
            for name, trainee in self.trainees.items():
                trainee.unlock(name == network)
            losses = self._losses(self.modules, batch, network, self.step / self.settings.steps, numbers)
            skips = self.trainees[network].update(losses, len(numbers.keys), self.rate, meanwhile)
            lost = skips >= SKIPS
            if not at_hand(lost) or lost:
                self.lost_at = torch.where(lost & (self.lost_at < 0), self.step, self.lost_at)
        self.step += 1

    def evaluate(self, held_out: Iterable[Batch]) -> float:
        """Return the student's mean loss on held-out samples, with the weights that will be kept."""
        parts = self.evaluated(held_out)
        return sum(float(part.sum()) for part in parts) / sum(map(len, parts))

    @torch.no_grad()
    def evaluated(self, samples: Iterable[Batch]) -> list[Tensor]:
        """Return the student's loss on each sample, (n,) for each batch or micro-batch, as in `evaluate`.

        The random numbers depend on a sample's position, so the losses of two sets can be compared.
        """
        modules = self.modules | {name: trainee.result for name, trainee in self.trainees.items()}
        training = [module for module in modules.values() if module.training]
        for module in training:
            module.eval()
        parts: list[Tensor] = []
        start = 0
        for batch in samples:
            stop = start + len(next(iter(batch.values())))
            keys = randomness.keys_of(HELD_OUT_SEED, start, stop)
            numbers = Prefetched(keys, set())
            parts += self._losses(modules, self._prepared(batch, keys), "student", 1.0, numbers)
            start = stop
        for module in training:
            module.train()
        return parts

    def losses(self) -> dict[str, float]:
        """Return the mean loss of the last updates of each network that had any."""
        return {name: float(trainee.loss) for name, trainee in self.trainees.items() if trainee.updates}

    def skipped(self) -> int:
        """Return how many updates were skipped because the loss or its gradient was not finite."""
        return sum(int(trainee.skipped) for trainee in self.trainees.values())

    def refuse_divergence(self) -> None:
        """Stop a training in which a network has diverged.

        Raises:
            DivergedError: if too many updates in a row had no finite loss or gradient.
        """
        if self.lost_at >= 0:
            raise DivergedError(
                f"the loss or its gradient was not finite {SKIPS} updates in a row, up to step "
                f"{int(self.lost_at)}; lower learning_rate or clip, or raise warmup"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the training state."""
        found = {"step": torch.tensor(self.step), "slowed": torch.tensor(self.slowed)}
        for name, trainee in self.trainees.items():
            found |= {f"{name}/{key}": tensor for key, tensor in trainee.tensors().items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors that `tensors` returned."""
        self.step, self.slowed = int(tensors["step"]), float(tensors["slowed"])
        for name, trainee in self.trainees.items():
            trainee.restore(under(f"{name}/", tensors))

    def _prepared(self, batch: Batch, keys: Tensor) -> Batch:
        """Return a batch as the method prepares it, which does not see the weights of samples."""
        seen = {name: tensor for name, tensor in batch.items() if name != WEIGHT}
        weights = {name: tensor for name, tensor in batch.items() if name == WEIGHT}
        return self.method.prepare_batch(seen, keys, self.law) | weights

    def _losses(
        self,
        modules: dict[str, nn.Module],
        batch: Batch,
        network: str,
        progress: float,
        numbers: Prefetched,
    ) -> Iterator[Tensor]:
        """Yield the losses (n,) of the samples that pass through the networks at a time."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        weight = batch.pop(WEIGHT, None)
        half = self.settings.precision == "bfloat16"
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16) if half else nullcontext
        nets, size = KnownNets(modules), self.engine.micro_batch or len(numbers.keys)
        for start in range(0, len(numbers.keys), size):
            part = slice(start, start + size)
            own, keys = {name: tensor[part] for name, tensor in batch.items()}, numbers.keys[part]
            with autocast(), phase("forward"), numbers.offered(keys, part):
                losses = self.method.loss(nets, own, network, progress, keys)
            yield losses if weight is None else weight[part] * losses


def must_repeat(loaded: Any) -> Any:
    """Return a network that a method asks beside its student.

    Raises:
        UserError: if it is a model that is not deterministic.
    """
    if isinstance(loaded, Model) and not loaded.config.deterministic:
        raise UserError(
            "the teacher is not deterministic: the same noise gives other samples each time, so that there "
            "is no flow to learn; take one that is"
        )
    return loaded


def pinned(batch: Batch, device: torch.device) -> Batch:
    """Return a batch in memory from which a GPU copies while the processor goes on; as it is for the CPU."""
    if device.type != "cuda":
        return batch
    with torch.cuda.device(device):  # or a thread would take memory of the first one, too
        return {name: tensor.pin_memory() for name, tensor in batch.items()}
