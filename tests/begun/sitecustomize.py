"""Python imports this as it begins, where this folder is in PYTHONPATH: what flows start then begins sooner.

A process that begins with libraries loaded (tests/preloaded.py) runs the command. This one lives as long,
hands on what interrupts it, and ends as that does; if it is killed, that is, too.
"""

import os
import sys


def to_hand_over(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the kind of command and what to run if flows, workers, DVC's queue or stages begin it."""
    python = ["python", *words[1:]]
    match words[1:]:
        case ["-P", file, *_] if file.endswith("/flows/dvc/reproduce.py"):
            return "dvc", python
        case ["-m", "dvc", "--wait-for-lock", *_]:
            return "dvc", python
        case [_, "exp", "exec-run", *_]:
            return "dvc", ["dvc", *words[2:]]
        case ["-m", module, "--ahead"] if module.startswith("stages."):
            return "dvc", python
        case [*_, "-c", text, "--multiprocessing-fork"] if "spawn_main" in text:
            return "dvc", ["python", *words[-3:]]  # without -B, which the server has, too
        case ["-P", "-m", "fewstep", "run", *_]:
            return "prefect", python
        case ["-m", "prefect.engine" | "prefect.runner._workspace_supervisor", *_]:
            return "prefect", python
        case ["-m", "stages.tracking.sender", *_]:
            return "sender", python
    return None


def hand_over(kind: str, words: list[str]) -> None:
    """Let the server of a kind run a command, and end with it; return if it can't."""
    import json
    import signal
    import socket

    there = map(int, os.listdir("/proc/self/fd"))  # and the listing's own, closed by now
    files = [number for number in there if os.path.exists(f"/proc/self/fd/{number}")]
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(f"{os.environ['PRELOADED_AT']}/{kind}")
    order = json.dumps([words, os.getcwd(), dict(os.environ), files]).encode()
    socket.send_fds(server, [order], files)
    if not (group := server.recv(16)):
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.killpg(int(group), number))
    status = int(server.recv(16))
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if found := to_hand_over(sys.orig_argv):
    hand_over(*found)
