"""Python imports this as it begins, where this folder is in PYTHONPATH: a turn of DVC's is then taken sooner.

A process that begins with libraries loaded (tests/preloaded.py) runs the command. This one lives as long,
hands on what interrupts it, and ends as that does; if it is killed, that is, too.
"""

import os
import sys


def asks_dvc(words: list[str]) -> bool:
    """Say whether a command is one with which the flows ask DVC for something (flows/dvc/commands.py)."""
    return (words[1] == "-P" and words[2].endswith("/flows/dvc/reproduce.py")) or (
        words[1:4] == ["-m", "dvc", "--wait-for-lock"]
    )


def hand_over(words: list[str]) -> None:
    """Let the server run a command, and end with it; return if it can't."""
    import json
    import signal
    import socket

    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(os.environ["PRELOADED_AT"])
    order = json.dumps([["python", *words[1:]], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [order], [0, 1, 2])
    if not (group := server.recv(16)):
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.killpg(int(group), number))
    status = int(server.recv(16))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if len(sys.orig_argv) > 3 and asks_dvc(sys.orig_argv):
    hand_over(sys.orig_argv)
