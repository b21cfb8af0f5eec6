"""Progress as lines, as a bar, and as numbers for the tracker; and timings kept beside the outputs."""

import io
import json
import sys

from fewstep.command_progress import clock
from stages.artifacts import places, timings
from stages.process.progress import StageProgress


def test_lines_come_after_a_while_then_spaced_then_at_the_end(time, capsys):
    progress = StageProgress("pretrain")
    progress.start("pretrain", 100)
    for _ in range(100):
        time.now += 0.5
        progress.advance(loss=0.51234)
    progress.finish()
    assert capsys.readouterr().out.splitlines() == [
        "pretrain: step 6/100 (6 %), loss 0.512, 2 step/s, 0:47 left",
        "pretrain: step 36/100 (36 %), loss 0.512, 2 step/s, 0:32 left",
        "pretrain: step 66/100 (66 %), loss 0.512, 2 step/s, 0:17 left",
        "pretrain: step 96/100 (96 %), loss 0.512, 2 step/s, 0:02 left",
        "pretrain: step 100/100 (100 %), loss 0.512, 2 step/s, 0:50 in all",
    ]


def test_the_last_line_is_printed_once(time, capsys):
    progress = StageProgress("export")
    progress.start("export", 1, unit="format")
    time.now += 20
    progress.advance()
    progress.finish()
    assert capsys.readouterr().out.splitlines() == ["export: format 1/1 (100 %), 0.05 format/s, 0:20 in all"]


def test_resumed_work_counts_only_its_own_pace(time, capsys):
    progress = StageProgress("couple@round1")
    progress.start("pairs", 100, done=50, unit="pair")
    time.now += 10
    progress.advance(10)
    assert capsys.readouterr().out.splitlines() == [
        "couple@round1: pairs: resuming from pair 50/100",
        "couple@round1: pairs, pair 60/100 (60 %), 1 pair/s, 0:40 left",
    ]


def test_values_are_shown_instead_of_those_before(time, capsys):
    progress = StageProgress("pretrain")
    progress.start("pretrain", 3)
    progress.advance(loss=0.5, data_wait=0.3)
    progress.advance(loss=0.4)
    progress.advance()
    progress.finish()
    assert "3/3 (100 %), loss 0.4, " in capsys.readouterr().out


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = StageProgress("pretrain")
    progress.start("pretrain", 10)
    progress.advance(3, loss=0.5)
    progress.bar.refresh()
    progress.finish()
    assert "3/10" in terminal.getvalue()
    assert "loss=0.5" in terminal.getvalue()


def test_measurements_go_to_the_tracker():
    heard = []
    StageProgress("pretrain", lambda step, values: heard.append((step, values))).measure(3, loss=0.5)
    assert heard == [(3, {"loss": 0.5})]


def test_seconds_are_printed_as_a_clock_does():
    assert [clock(s) for s in (0.4, 39, 61, 7500)] == ["0:00", "0:39", "1:01", "2:05:00"]


def test_timings_merge_and_keep_the_last(tmp_path):
    file = tmp_path / places.SAMPLING_SECONDS
    assert timings.read(file) == {}
    timings.note(file, "boss-4@4", 1.5)
    timings.note(file, "base@32", 9.0)
    timings.note(file, "boss-4@4", 1.25)
    assert timings.read(file) == {"boss-4@4": 1.25, "base@32": 9.0}


def test_records_come_with_the_lines_and_every_three_seconds(time, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEWSTEP_PROGRESS_FILE", str(file := tmp_path / "progress.jsonl"))
    file.write_text('{"stage": "an earlier one"}\n')
    progress = StageProgress("couple@round1")
    progress.start("pairs", 100, done=50, unit="pair")
    for _ in range(8):
        time.now += 1
        progress.advance(5, loss=0.5)
    progress.finish()
    earlier, *found = map(json.loads, file.read_text().splitlines())
    assert earlier == {"stage": "an earlier one"}
    assert [(record["done"], record["seconds_left"]) for record in found] == [
        (50, None),
        (65, 7),
        (80, 4),
        (90, 2),
    ]
    assert found[1] == {
        "stage": "couple@round1",
        "label": "pairs",
        "unit": "pair",
        "done": 65,
        "total": 100,
        "seconds_left": 7.0,
        "values": {"loss": 0.5},
    }


def test_a_terminal_gets_records_too(time, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FEWSTEP_PROGRESS_FILE", str(file := tmp_path / "progress.jsonl"))
    progress = StageProgress("pretrain")
    progress.start("pretrain", 4)
    for _ in range(4):
        time.now += 2
        progress.advance()
    progress.finish()
    assert [json.loads(line)["done"] for line in file.read_text().splitlines()] == [0, 2, 4, 4]


def test_without_a_file_there_are_no_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    progress = StageProgress("pretrain")
    progress.start("pretrain", 4)
    progress.finish()
    assert not list(tmp_path.iterdir())
