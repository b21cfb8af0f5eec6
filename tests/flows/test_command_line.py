"""`fewstep` in a checkout and elsewhere."""

import os
import shutil
import subprocess
import sys
import tomllib
from types import FunctionType

import pytest
from workspace import CHECKOUT

from fewstep import command_line
from flows import commands
from flows.planning import measuring

HEAVY = {"torch", "prefect", "mlflow", "dvc", "matplotlib", "sklearn", "pandas", "numpy"}
COMMANDS = tuple(name for name in command_line.app_of(CHECKOUT) if not name.startswith("-"))
HELP = """
import sys
from fewstep import command_line
try:
    command_line.main(sys.argv[1:])
finally:
    print("modules:", *{name.partition(".")[0] for name in sys.modules})
"""


def fewstep(*words, folder=CHECKOUT):
    """Run a command in a folder; return its exit status and what it said."""
    path = {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-P", "-m", "fewstep", *words]
    ended = subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=["", *COMMANDS])
def test_help_is_there_before_anything_heavy_is_imported(words):
    command = [sys.executable, "-c", HELP, *words, "--help"]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said, _, modules = ended.stdout.partition("modules:")
    assert f"Usage: {' '.join(['fewstep', *words])}" in said
    assert not HEAVY & set(modules.split())


def test_every_command_of_the_checkout_is_one_of_the_command_line():
    own = {name: value for name, value in vars(commands).items() if isinstance(value, FunctionType)}
    defined = {name for name, value in own.items() if value.__module__ == "flows.commands"}
    assert defined == set(command_line.OF_A_CHECKOUT)


def test_the_package_names_its_command():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fewstep": "fewstep.command_line:main"}


@pytest.mark.parametrize("name", command_line.OF_A_CHECKOUT)
def test_elsewhere_the_pipelines_commands_say_that_they_need_a_checkout(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command_line.main([name])
    assert f"`fewstep {name}` is a command of a checkout of fewstep" in ended.value.code
    assert str(tmp_path) in ended.value.code


def test_elsewhere_help_has_the_librarys_commands_and_names_the_others(tmp_path):
    status, said = fewstep("--help", folder=tmp_path)
    assert status == 0
    assert "search" in said
    assert "run, plan, why" in " ".join(said.split())


def test_a_mistake_is_one_message_without_a_traceback(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("fewstep", "flows", "stages"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text("sede: 0\n")
    status, said = fewstep("check", folder=tmp_path / "sub")  # below the checkout, too
    assert status == 1
    assert said.startswith("params.yaml has mistakes:\n")
    assert "sede is no stage; there are: adopt, couple" in said
    assert "Traceback" not in said


def test_a_clone_runs_its_own_code(tmp_path):
    for name in ("fewstep", "flows", "stages"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "fewstep" / "__init__.py").write_text('__version__ = "the clone\'s"\n')
    assert fewstep("--version", folder=tmp_path) == (0, "the clone's\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["plan", "evaluate"],
            "evaluate is no stage that makes samples or trains; there are: couple, distill, pretrain, "
            "reflow, trajectories",
        ),
        (
            ["plan", "couple@round1", "--force"],
            "give a stage, --memory or options of a run, and not several of them",
        ),
        (
            ["plan", "--memory", "--only", "pretrain"],
            "give a stage, --memory or options of a run, and not several of them",
        ),
        (
            ["plan", "couple@round1", "--memory"],
            "give a stage, --memory or options of a run, and not several of them",
        ),
        (["plan", "--price", "2"], "--price needs a stage that makes samples, such as couple@round1"),
        (
            ["plan", "--memory", "--price", "2"],
            "--price needs a stage that makes samples, such as couple@round1",
        ),
    ],
)
def test_a_plan_is_of_a_run_or_of_a_stages_samples(monkeypatch, words, told):
    monkeypatch.chdir(CHECKOUT)
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    assert ended.value.code == told


def test_the_plan_of_a_stage_is_that_of_its_own_command(monkeypatch):
    started = []
    monkeypatch.setattr(measuring.os, "execv", lambda program, words: started.append(words[1:]))
    measuring.measure("couple@round1", 2.5)
    measuring.measure("couple@round1", None)
    wanted = ["-m", "stages.couple", "round1", "--plan"]
    assert started == [[*wanted, "--price=2.5"], wanted]


def test_the_plan_of_memory_asks_each_training(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    started = []
    monkeypatch.setattr(measuring.subprocess, "run", lambda words: started.append(words[2:]))
    commands.plan(memory=True)
    assert ["stages.pretrain", "base", "--plan"] in started
    assert ["stages.reflow", "round1", "--plan"] in started
    assert ["stages.distill", "boss-4", "--plan"] in started
    assert {words[0] for words in started} == {"stages.pretrain", "stages.reflow", "stages.distill"}


def test_an_option_that_does_not_exist_is_answered_with_the_nearest():
    status, said = fewstep("run", "--start-form", "couple")
    assert status != 0
    assert "Did you mean --start-from?" in " ".join(said.split())
    assert "Traceback" not in said


PRINTS = """
import sys
from fewstep import command_line

def check():
    {}

command_line.app_of = lambda root: lambda given: check()
command_line.main(["check"])
"""


@pytest.mark.parametrize(
    "body",
    [
        "print('line\\n' * 100_000)",  # more than a pipe holds
        "print('line'); sys.exit(0)",  # which stays in the buffer
        "print('line')",
        "sys.stderr.write('line\\n'); sys.stderr.flush(); print('line', flush=True)",
    ],
)
def test_a_reader_that_leaves_ends_a_command_quietly(body):
    code = PRINTS.format(body)
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (ended.returncode, ended.stderr.replace("line\n", "")) == (1, "")


def test_a_broken_pipe_between_processes_keeps_its_traceback():
    code = PRINTS.format("raise BrokenPipeError('of a worker')")
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert "Traceback" in ended.stderr
    assert "of a worker" in ended.stderr
