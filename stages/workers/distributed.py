"""A training shared by several processes, of this machine or of several, which torch's elastic launch starts.

The stage itself is none of them: it starts those of its machine, shows the progress of the first, and ends
when one of them dies. On several machines the stage of the first publishes, those of the others only help.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

from fewstep import variables
from fewstep.errors import UserError, first_line
from fewstep.lazy import lazy_imports
from fewstep.progress import SILENT, Progress
from fewstep.secrets import scrub
from stages.artifacts.full_disk import full_folder
from stages.process.device import device
from stages.process.parent import follow_parent

with lazy_imports():
    import torch
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing import api as elastic_processes
    from torch.distributed.elastic.multiprocessing import errors as elastic_errors
    from torch.distributed.launcher import api as launcher

    from fewstep import distributed

if TYPE_CHECKING:
    from collections.abc import Iterator

START_METHOD = "spawn"  # a forked torch may hang
QUIET = ("torch.distributed.elastic.multiprocessing", "torch.multiprocessing.spawn")  # loggers
STOP_SECONDS = 5  # until a process that does not end on SIGTERM is killed
LEAVE_SECONDS = 30  # until the first machine leaves, though others have not
RESUME = "start the stage again, on all of its machines, and it resumes"


class OthersFinishError(Exception):
    """The share of this machine in a training is done; the stage of the first machine does the rest."""


@dataclass(frozen=True)
class Group:
    """The processes of a training."""

    processes: int
    """On this machine."""
    machines: int = 1
    machine: int = 0
    """The number of this machine, from 0."""
    rendezvous: str = ""
    """Where the machines meet, host:port; the host is that of the first."""

    @property
    def alone(self) -> bool:
        """Whether the stage trains without other processes."""
        return self.processes == self.machines == 1

    @classmethod
    def from_environment(cls) -> Group:
        """Read FEWSTEP_PROCESSES, FEWSTEP_NODES, FEWSTEP_NODE_RANK and FEWSTEP_RENDEZVOUS.

        Raises:
            UserError: if one has an impossible value, or the processes have no GPU each.
        """
        machines = variables.count("FEWSTEP_NODES", "machines", default=1)
        return cls(processes(), machines, machine_number(), rendezvous() if machines > 1 else "")


def refuse_torchrun() -> None:
    """Stop a stage that was started several times over: the copies would wait for its lock one by one.

    Raises:
        UserError: if the environment is that of torchrun.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise UserError(
            f"a stage starts its other processes itself: instead of torchrun (WORLD_SIZE is {count}), "
            f"set FEWSTEP_PROCESSES={count}"
        )


def machine_number() -> int:
    """Return which of the machines of a training this is, from 0: FEWSTEP_NODE_RANK.

    Raises:
        UserError: if it is no number below FEWSTEP_NODES.
    """
    machines = variables.count("FEWSTEP_NODES", "machines", default=1)
    asked = os.environ.get("FEWSTEP_NODE_RANK", "0")
    if not (asked.isdecimal() and int(asked) < machines):
        raise UserError(
            f"FEWSTEP_NODE_RANK must be from 0 to {machines - 1} (FEWSTEP_NODES - 1), got {asked!r}"
        )
    return int(asked)


def rendezvous() -> str:
    """Return where several machines meet: FEWSTEP_RENDEZVOUS.

    Raises:
        UserError: if it is not of the form host:port.
    """
    asked = os.environ.get("FEWSTEP_RENDEZVOUS", "")
    host, _, port = asked.rpartition(":")
    if not (host and port.isdecimal()):
        raise UserError(f"FEWSTEP_RENDEZVOUS must be host:port, the host of the first machine, got {asked!r}")
    return asked


def processes() -> int:
    """Return how many processes of this machine share a training: FEWSTEP_PROCESSES, or one.

    Raises:
        UserError: if it is no number from 1, or more than there are GPUs to train on.
    """
    count, where = variables.count("FEWSTEP_PROCESSES", "processes", default=1), device()
    if count > 1 and where not in ("cpu", "cuda"):
        raise UserError(
            f"FEWSTEP_PROCESSES {count} trains on a GPU for each process, but FEWSTEP_DEVICE is {where}; set "
            "it to cuda, or FEWSTEP_PROCESSES to 1"
        )
    if count > 1 and where == "cuda" and count > (there := torch.cuda.device_count()):
        raise UserError(
            f"FEWSTEP_PROCESSES {count} is more than the GPUs here, {there}; set it to {there} or less"
        )
    return count


def launch(group: Group, work: Callable[[Progress], Any], *, name: str, progress: Progress) -> Any:
    """Let all processes of a group call `work` with a progress, and return what the first got.

    Args:
        group: The processes.
        work: A function of a module, or a method of a plain value; it is sent to the processes.
        name: Of what is made, the same on all machines.
        progress: Gets what the first process reports.

    Raises:
        UserError: what a process of this machine raised; if a process was killed, or lost another; or if the
            machines can't meet.
        OSError: if a process found a disk full.
        RuntimeError: if a process died otherwise.
        OthersFinishError: on another machine than the first, when the work is done.
    """
    for logger in QUIET:  # this function raises what they would print
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    ours, theirs = Pipe(duplex=False)
    relay = Relay(ours, progress)
    relay.start()
    failure: Exception | None = None
    results: dict[int, Any] = {}
    with TemporaryDirectory(prefix="fewstep-") as logs, unchanged_environment():
        try:
            with until_all_leave(group):
                results = launcher.elastic_launch(configuration(group, name, logs), begin)(theirs, work)
        except elastic_errors.ChildFailedError as error:
            failure = error
        except dist.DistError as error:
            if group.machines == 1:
                raise
            raise UserError(
                f"the machines of this training can't meet at {group.rendezvous} (FEWSTEP_RENDEZVOUS), a "
                f"port of the first that must be free there and open to the others: {first_line(error)}"
            ) from None
        finally:
            theirs.close()
            relay.join()
    if relay.mistake is not None:
        raise UserError(relay.mistake)
    if relay.full is not None:
        raise relay.full
    if isinstance(failure, elastic_errors.ChildFailedError):
        rank, died = failure.get_first_failure()
        if died.exitcode in (-signal.SIGKILL, -signal.SIGTERM):
            raise UserError(
                f"process {rank} of this training was killed by signal {-died.exitcode}; memory may have run "
                f"out (see `dmesg`); {RESUME}"
            )
        if relay.lost is not None:
            raise UserError(f"another process of this training ended ({relay.lost}); {RESUME}")
        raise RuntimeError(f"process {rank} of this training ended with exit code {died.exitcode}") from None
    if relay.failure is not None:
        raise relay.failure
    if group.machine > 0:
        raise OthersFinishError
    return results[0]


def configuration(group: Group, name: str, logs: str) -> launcher.LaunchConfig:
    """Return how torch is to start the processes of this machine; none is started again."""
    where: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    if group.machines > 1:
        where = {"rdzv_backend": "static", "rdzv_endpoint": group.rendezvous}
        where["rdzv_configs"] = {"rank": group.machine}
    return launcher.LaunchConfig(
        min_nodes=group.machines,
        max_nodes=group.machines,
        nproc_per_node=group.processes,
        run_id=name,
        max_restarts=0,
        start_method=START_METHOD,
        signals_to_handle="",  # the stage's own: Control-C interrupts it, and processes die with it
        logs_specs=elastic_processes.DefaultLogsSpecs(log_dir=logs),
        shutdown_timeout=STOP_SECONDS,
        **where,
    )


@contextmanager
def until_all_leave(group: Group) -> Iterator[None]:
    """Let the first machine leave last: the others ask it how all ended, and log tracebacks if it is gone.

    Raises:
        torch.distributed.DistError: if the first machine can't listen where they meet.
    """
    if group.machines == 1:
        yield
        return
    host, _, port = group.rendezvous.rpartition(":")
    timeout = timedelta(seconds=LEAVE_SECONDS)
    others = [f"{machine} left" for machine in range(1, group.machines)]

    def store(**options: Any) -> dist.Store:  # torch's launch shares that of the first machine
        return dist.TCPStore(host, int(port), wait_for_workers=False, timeout=timeout, **options)

    if group.machine == 0:
        meeting = store(is_master=True, multi_tenant=True)
        yield
        with suppress(dist.DistError):
            meeting.wait(others, timeout)
    else:
        yield
        with suppress(dist.DistError):
            store(is_master=False).set(others[group.machine - 1], "")


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Take back what torch writes into the environment of the stage."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def begin(events: Connection, work: Callable[[Progress], Any]) -> Any:
    """Do the work in one of the processes, which ends with the stage."""
    follow_parent()
    try:
        distributed.join(device())
        return work(Reported(events) if distributed.rank() == 0 else SILENT)
    except UserError as error:  # which may be of this machine, or device, alone
        events.send(("mistake", (str(error),), {}))
        sys.exit(1)  # which ends the others
    except Exception as error:
        if (folder := full_folder(error)) is not None:
            events.send(("full", (str(folder / "the state"),), {}))
            sys.exit(1)
        if lost_another(error):
            said = re.sub(r"^\[\S+:\d+\] ", "", first_line(error))  # without the line of torch's own code
            events.send(("lost", (said,), {}))
            time.sleep(STOP_SECONDS)  # the launch finds the one that ended first, if it is of this machine
            sys.exit(1)
        print(scrub(traceback.format_exc()), end="", file=sys.stderr)
        raise
    finally:
        distributed.leave()


def lost_another(error: Exception) -> bool:
    """Return whether an exchange failed because a process at its other end did."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)  # gloo has no class for it


class Reported:
    """Progress of the first process, which the stage shows."""

    def __init__(self, events: Connection) -> None:
        self.events = events

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """See Progress.start."""
        self.events.send(("start", (label, total), {"done": done, "unit": unit}))

    def advance(self, units: int = 1, **values: float) -> None:
        """See Progress.advance."""
        self.events.send(("advance", (units,), values))

    def measure(self, step: int, **values: float) -> None:
        """See Progress.measure."""
        self.events.send(("measure", (step,), values))

    def note(self, text: str) -> None:
        """See Progress.note."""
        self.events.send(("note", (text,), {}))


class Relay(Thread):
    """Hands what the first process reports on to the stage's progress, until no process holds the pipe."""

    def __init__(self, events: Connection, progress: Progress) -> None:
        super().__init__(daemon=True)
        self.events, self.progress = events, progress
        self.mistake: str | None = None
        self.lost: str | None = None
        self.full: OSError | None = None
        self.failure: Exception | None = None

    def run(self) -> None:
        """Hand on; what can't be handed on is still taken from the pipe, or the process would wait."""
        with self.events:
            while True:
                try:
                    name, arguments, options = self.events.recv()
                except (EOFError, OSError):  # the end, or half a message of a process that was killed
                    return
                if name == "mistake":
                    (self.mistake,) = arguments
                elif name == "lost":
                    (self.lost,) = arguments
                elif name == "full":
                    self.full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *arguments)
                elif self.failure is None:
                    try:
                        getattr(self.progress, name)(*arguments, **options)
                    except Exception as error:
                        self.failure = error
