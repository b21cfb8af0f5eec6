"""Progress of a command: spaced lines in a log, a bar on a terminal, and nothing of it in what it prints."""

import io
import sys

import pytest

from fewstep.command_progress import CommandProgress


def work(time, progress, units=20):
    progress.start("trajectories", units, unit="noise")
    for _ in range(units):
        time.now += 1
        progress.advance(rmse=0.1234)


def test_a_log_gets_a_line_after_a_while_then_spaced_ones_then_the_last(time, capsys):
    with CommandProgress("search") as progress:
        progress.note("up to 30 network calls")
        work(time, progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "search: up to 30 network calls",
        "search: trajectories, noise 3/20 (15 %), rmse 0.123, 1 noise/s, 0:17 left",
        "search: trajectories, noise 18/20 (90 %), rmse 0.123, 1 noise/s, 0:02 left",
        "search: trajectories, noise 20/20 (100 %), rmse 0.123, 1 noise/s, 0:20 in all",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_which_the_last_line_replaces(time, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with CommandProgress("search") as progress:
        work(time, progress)
        progress.bar.refresh()
    assert "search: trajectories: 100%" in terminal.getvalue()
    assert "20/20" in terminal.getvalue()
    last = "search: trajectories, noise 20/20 (100 %), rmse 0.123, 1 noise/s, 0:20 in all\n"
    assert terminal.getvalue().endswith(last)


def test_a_failure_leaves_no_bar_in_the_line_of_its_message(time, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = CommandProgress("sample")
    progress.start("", 4, unit="sample")
    with pytest.raises(ValueError, match="no"), progress:
        raise ValueError("no")
    assert terminal.getvalue().endswith("in all\n")
