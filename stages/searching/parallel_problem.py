"""A search's question, with its batches of noise spread over several processes of this machine.

What a batch gives depends on the batch alone and results are taken in order, so the number of processes
changes no byte.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from fewstep.flow import as_flow
from fewstep.model import Model
from fewstep.searches import Problem
from fewstep.searching.checked import Checked
from fewstep.searching.noise import Drawn
from stages.process.parent import follow_parent
from stages.workers.machine import cores, workers

FEWEST_BATCHES = 8  # in the largest set of noises; fewer are done before a process has started

WORKER: dict[str, Any] = {}  # what a worker process keeps from one batch to the next


@dataclass(frozen=True)
class ParallelProblem(Problem):
    """A question that other processes help with."""

    pool: Executor | None = None

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
        assert self.pool is not None
        parts = self.noise.parts(role, count)
        if label:
            self.progress.start(label, count, unit="noise")
        more = [()] * len(parts) if beside is None else [(plain(thing),) for thing in beside]
        tasks = [(work, part, others) for part, others in zip(parts, more, strict=True)]
        for part, made in zip(parts, self.pool.map(one_batch, tasks), strict=True):
            yield tensors(made)
            if label:
                self.progress.advance(len(part))


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
    processes = workers(default=cores() if problem.noise.device == "cpu" else 1)
    processes = min(processes, most // problem.noise.batch)
    two = problem.followed is not problem.flow  # of which processes open one
    if two or processes < 2 or most < FEWEST_BATCHES * problem.noise.batch:
        yield problem
        return
    context = get_context("spawn")  # a forked torch may hang
    facts = (opened, guidance, problem.noise)
    with ProcessPoolExecutor(processes, context, initializer=start_worker, initargs=facts) as pool:
        fields = {name: getattr(problem, name) for name in problem.__dataclass_fields__}
        try:
            yield ParallelProblem(**fields, pool=pool)
        finally:
            pool.shutdown(cancel_futures=True)


def start_worker(opened: Callable[[], Model], guidance: float, noise: Drawn) -> None:
    """Open the model in a worker process."""
    follow_parent()
    WORKER.update(flow=Checked(as_flow(opened(), guidance=guidance)), noise=noise)


def one_batch(task: tuple[Callable[..., Any], range, tuple]) -> Any:
    """Work on one batch, in a worker process."""
    work, part, more = task
    noise, conditions = WORKER["noise"].draw(part)
    return plain(work(WORKER["flow"], noise, conditions, *(tensors(x).to(noise.device) for x in more)))


def plain(made: Any) -> Any:
    """Return a tensor as an array, which goes between processes as bytes and not as an open file."""
    return made.cpu().numpy() if isinstance(made, torch.Tensor) else made


def tensors(made: Any) -> Any:
    """Undo `plain`; sums are mappings of arrays and stay so."""
    return torch.from_numpy(made) if isinstance(made, np.ndarray) else made
