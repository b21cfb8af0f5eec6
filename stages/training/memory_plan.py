"""What memory a training will take on this machine, and what it would take in other ways."""

from dataclasses import dataclass, replace
from itertools import takewhile

import psutil
import torch

from fewstep import variables
from fewstep.shards import Shards
from fewstep.shards.batches import bytes_in_memory, bytes_of_sample
from fewstep.training.engine import Engine
from fewstep.training.footprint import HELD, Engaged, TrainingCosts
from stages.process.device import device
from stages.run.job import Job
from stages.training.training import TrainingSpec
from stages.workers.distributed import Group
from stages.workers.machine import CGROUPS, memory_left

MIB = 2**20
DEVICES = (2, 8)  # times as many, that the table shows


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of each process of a training."""

    measured: TrainingCosts
    batch: int
    """Samples of a step, over all processes."""
    way: Engaged
    """As the environment has it."""
    ranks: int
    free: int
    """Bytes of the device that are free."""
    data: int
    """Bytes of the samples that wait to be used, in the memory of the machine."""
    on_cpu: bool
    copies: int
    """Copies of the training state in the memory of the machine: that of a save, and of the best look."""
    shardable: bool
    """Whether processes may hold a part of the weights each; those of an adapter may not."""

    @property
    def saved(self) -> int:
        """Bytes of one copy of the training state."""
        held = self.measured.held
        return held.gradients + held.moments + held.averages

    def needed(self, way: Engaged) -> int:
        """Return the bytes of the device that a process takes."""
        found = self.measured.footprint(way)
        if self.on_cpu:
            return found.total + self.data + self.copies * self.saved
        return found.activations if way.offloaded else found.total

    def lines(self) -> list[str]:
        """Return what a user wants to know."""
        found, way = self.measured, self.way
        asked = found.footprint(way)
        kinds = {name: getattr(asked, name) for name in HELD}
        kinds |= {"activations": asked.activations, "data": self.data, "saves": self.copies * self.saved}
        elsewhere = {"data", "saves"} | (set(HELD) if way.offloaded else set())
        there = "" if self.on_cpu else " (in the memory of the machine, not of the GPU)"
        return [
            f"{found.trained:,} parameters are trained, {found.frozen:,} are not; batch {self.batch}, "
            f"{min(way.micro_batch, way.share)} samples at a time in each of {self.ranks} processes",
            *(
                f"{kind:12}{size / MIB:10,.0f} MiB{there if kind in elsewhere else ''}"
                for kind, size in kinds.items()
            ),
            f"{'at most':12}{self.verdict(self.needed(way))}; {self.free / MIB:,.0f} MiB are free",
            *(f"with {name:44}{self.verdict(self.needed(other))}" for name, other in self.others().items()),
        ]

    def verdict(self, needed: int) -> str:
        """Return a number of bytes, and whether they are there."""
        return f"{needed / MIB:10,.0f} MiB, {'fits' if needed <= self.free else 'does not fit'}"

    def others(self) -> dict[str, Engaged]:
        """Return other ways to compute the training, by the variables that ask for them."""
        way, found = self.way, {}
        halves = [min(way.micro_batch, way.share) // 2**times for times in range(1, 32)]
        smaller = [replace(way, micro_batch=size) for size in takewhile(bool, halves)]
        again = [] if way.recompute else [("FEWSTEP_RECOMPUTE=on", replace(way, recompute=True))]
        for name, base in [("", way), *again]:
            if name:
                found[name] = base
            tried = [replace(base, micro_batch=one.micro_batch) for one in smaller]
            if tried:
                size = next((one for one in tried if self.fits(one)), tried[-1])
                found[f"FEWSTEP_MICRO_BATCH={size.micro_batch} {name}".strip()] = size
        for times in DEVICES:
            ranks = times * self.ranks
            if self.batch % ranks == 0:
                shared = replace(way, share=self.batch // ranks)
                if way.shards == 1:
                    found[f"FEWSTEP_PROCESSES={ranks}"] = shared
                if self.shardable:
                    name, parts = f"FEWSTEP_PROCESSES={ranks} FEWSTEP_SHARD=on", replace(shared, shards=ranks)
                    found[name] = parts
                    if not self.on_cpu:
                        found[f"{name} FEWSTEP_OFFLOAD=on"] = replace(parts, offloaded=True)
        return found

    def fits(self, way: Engaged) -> bool:
        """Return whether there is as much memory as a way takes."""
        return self.needed(way) <= self.free


def plan_memory(job: Job, spec: TrainingSpec) -> MemoryPlan:
    """Measure a training; its student is of no use afterwards.

    Raises:
        UserError: if the environment has an impossible value, or a few samples do not fit into the memory.
    """
    task = spec.task(job)
    engine, group, free = Engine.from_environment(), Group.from_environment(), free_memory()
    ranks = group.processes * group.machines
    share = task.settings.batch // ranks
    shards = Shards(task.source / "train")
    sharded = ranks > 1 and variables.is_on("FEWSTEP_SHARD")
    return MemoryPlan(
        measured=task.measure(spec.student),
        batch=task.settings.batch,
        way=Engaged(
            share,
            engine.micro_batch or share,
            engine.recompute,
            ranks if sharded else 1,
            engine.offloaded and sharded,
        ),
        ranks=ranks,
        free=free,
        data=bytes_in_memory(shards.samples, bytes_of_sample(shards)),
        on_cpu=device() == "cpu",
        copies=1 if task.monitor is None else 2,
        shardable=spec.student.config.lora is None,
    )


def free_memory() -> int:
    """Return the bytes that are free on the device that trains; a container may be allowed fewer."""
    if (where := device()) != "cpu":
        return torch.cuda.mem_get_info(where)[0]
    return int(min(memory_left(CGROUPS), psutil.virtual_memory().available))
