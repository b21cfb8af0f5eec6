"""A search's question, with its batches of noise spread over several processes of this machine.

What a batch gives depends on the batch alone and results are taken in order, so the number of processes
changes no byte. A process that dies is replaced, and another works on its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fewstep.flow import as_flow
from fewstep.model import Model
from fewstep.searches import Problem
from fewstep.searching.checked import Checked
from fewstep.searching.noise import Drawn
from stages.process.device import device
from stages.workers.machine import places
from stages.workers.processes import Processes
from stages.workers.sharing import Crew

FEWEST_BATCHES = 8  # in the largest set of noises; fewer are done before a process has started

WORKER: dict[str, Any] = {}  # what a worker process keeps from one batch to the next


@dataclass(frozen=True)
class Batch:
    """Noises that a process works on together."""

    number: int
    part: range
    """The numbers of the noises."""
    work: Callable[..., Any]
    beside: tuple[Any, ...]
    """What else `work` is called with."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"batch {self.number} of the search's noise"


@dataclass(frozen=True)
class ParallelProblem(Problem):
    """A question that other processes help with."""

    crew: Crew | None = None

    def each(
        self,
        work: Callable[..., Any],
        role: str,
        count: int,
        *,
        beside: Sequence[Any] | None = None,
        label: str | None = None,
    ) -> Iterator[Any]:
        """See Problem.each."""
        assert isinstance(self.noise, Drawn), "workers draw their noise themselves"
        assert self.crew is not None
        parts = self.noise.parts(role, count)
        if label:
            self.progress.start(label, count, unit="noise")
        more = [()] * len(parts) if beside is None else [(plain(thing),) for thing in beside]
        batches = [
            Batch(n, part, work, with_it) for n, (part, with_it) in enumerate(zip(parts, more, strict=True))
        ]
        early: dict[int, Any] = {}  # results of batches whose turn is later
        turn = 0
        for batch, made in self.crew.share_out(one_batch, batches):
            early[batch.number] = made
            while turn in early:
                yield tensors(early.pop(turn))
                if label:
                    self.progress.advance(len(parts[turn]))
                turn += 1


@contextmanager
def spread_out(
    problem: Problem, opened: Callable[[], Model], guidance: float, *, most: int
) -> Iterator[Problem]:
    """Give a question about a model to as many processes as FEWSTEP_WORKERS says.

    Args:
        problem: The question; its noise is Drawn.
        opened: Opens the model, as each process does for itself.
        guidance: The scale it is called with.
        most: Noises in the largest set, which tells whether starting processes pays.
    """
    assert isinstance(problem.noise, Drawn)
    found = places()[: most // problem.noise.batch]
    two = problem.followed is not problem.flow  # of which processes open one
    if two or len(found) < 2 or most < FEWEST_BATCHES * problem.noise.batch:
        yield problem
        return
    pool, facts = Processes(found), (opened, guidance, problem.noise)
    fields = {name: getattr(problem, name) for name in problem.__dataclass_fields__}
    try:
        yield ParallelProblem(
            **fields, crew=Crew(pool, start_worker=start_worker, facts=facts, most=len(found))
        )
    finally:
        pool.close()


def start_worker(opened: Callable[[], Model], guidance: float, noise: Drawn) -> None:
    """Open the model in a worker process."""
    WORKER.update(flow=Checked(as_flow(opened(), guidance=guidance)), noise=replace(noise, device=device()))


def one_batch(batch: Batch) -> Any:
    """Work on one batch, in a worker process."""
    noise, conditions = WORKER["noise"].draw(batch.part)
    beside = (tensors(thing).to(WORKER["noise"].device) for thing in batch.beside)
    return plain(batch.work(WORKER["flow"], noise, conditions, *beside))


def plain(made: Any) -> Any:
    """Return a tensor as an array, which goes between processes as bytes and not as an open file."""
    return made.cpu().numpy() if isinstance(made, torch.Tensor) else made


def tensors(made: Any) -> Any:
    """Undo `plain`; sums are mappings of arrays and stay so."""
    return torch.from_numpy(made) if isinstance(made, np.ndarray) else made
