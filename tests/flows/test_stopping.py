import os
import subprocess
import sys
import threading
from contextvars import Context, copy_context

import pytest
from processes import alive, group, kill, wait_for
from workspace import CHECKOUT

from flows.system import processes

SLEEP = "import time; print(os.getpid(), flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {SLEEP}"


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    with processes.child_processes():
        yield


def run(code, log, folder, **options):
    command = [sys.executable, "-c", f"import os; {code}"]
    return processes.run(command, log, cwd=folder, env=dict(os.environ), **options)


def test_the_lines_and_the_exit_status_of_a_child_are_returned(tmp_path):
    lines = []
    assert run("print(os.getcwd(), flush=True); exit(3)", lines.append, tmp_path) == 3
    assert lines == [str(tmp_path)]


def test_a_child_may_print_bytes_that_are_no_text(tmp_path):
    lines = []
    assert run(r"os.write(1, b'caf\xe9\nrest\n')", lines.append, tmp_path) == 0
    assert lines == ["caf\ufffd", "rest"]


@pytest.mark.parametrize("code", [SLEEP, STUBBORN])
def test_a_child_whose_time_is_over_leaves_no_process(tmp_path, code):
    lines = []
    with pytest.raises(processes.TimeIsOverError):
        run(code, lines.append, tmp_path, seconds=2)
    assert not group(int(lines[0]))


@pytest.mark.parametrize("code", [SLEEP, STUBBORN])
def test_all_children_of_a_run_are_stopped_none_is_started_and_other_runs_continue(tmp_path, code):
    lines, ended = [], []

    def child():
        try:
            run(code, lines.append, tmp_path)
        except processes.StoppedError as error:
            ended.append(error)

    def child_of_a_run_below():
        with processes.child_processes():
            child()

    threads = [
        threading.Thread(target=copy_context().run, args=[what]) for what in (child, child_of_a_run_below)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(lines) == 2)
    processes.stop_all()
    for thread in threads:
        thread.join()
    assert len(ended) == 2
    assert not [line for line in lines if line.isdecimal() and group(int(line))]
    with pytest.raises(processes.StoppedError):
        run("print(1)", lines.append, tmp_path)
    with pytest.raises(processes.StoppedError), processes.child_processes():
        run("print(1)", lines.append, tmp_path)
    assert Context().run(run, "print(1)", lines.append, tmp_path) == 0


def test_a_child_is_killed_with_the_flow_itself(tmp_path):
    code = f"""
import os, sys
from pathlib import Path
from flows.system import processes
processes.run([sys.executable, "-c", {"import os; " + SLEEP!r}], print, cwd=Path("."), env=dict(os.environ))
"""
    flow = subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    child = int(flow.stdout.readline())
    kill(flow.pid)
    flow.wait()
    wait_for(lambda: not alive(child))


def test_a_child_of_a_background_job_can_be_interrupted(tmp_path):
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    inner = (
        "import os, sys, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from pathlib import Path; "
        "from flows.system import processes; "
        f"processes.run([sys.executable, '-c', {code!r}], print, cwd=Path('.'), env=dict(os.environ))"
    )
    assert subprocess.check_output([sys.executable, "-c", inner], cwd=CHECKOUT, text=True) == "True\n"
