"""The search stage on a small model: what it writes, and what it refuses."""

import json
from typing import ClassVar

import pytest
import torch
from jobs import job_in
from processes import kill
from safetensors.numpy import load_file

from fewstep import spacings
from fewstep.checkpoint import model_digest, save_model
from fewstep.errors import UserError
from fewstep.grids import Grid, uniform
from fewstep.model import ModelConfig, build
from stages import search
from stages.searching import parallel_problem
from stages.searching.grids_file import read_grids
from stages.workers.processes import Processes

SMALL = {"batch": 256, "truth_steps": 8, "report_noises": 16}
PICK = {"name": "best", "candidates": ["uniform", "bellman", "gits"], "noises": 512}


def model_folder(folder, **config):
    architecture = {"name": "mlp", "width": 16, "depth": 1}
    model = build(ModelConfig(architecture=architecture, shape=(2,), **config), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():  # a fresh network's last layer is zero, and so would be its velocity
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_model(folder, model)
    return folder


def run(tmp_path, method, *, config=None, **settings):
    """Run the stage on a model and return the folder it wrote."""
    pictures = {}
    inputs = {"model": model_folder(tmp_path / "model", **(config or {}))}
    job = job_in(tmp_path, "search", "base", inputs=inputs, picture=pictures.setdefault)
    search.run(
        search.Config(teacher="base", method=method, **({"budgets": [1, 2, 4]} | SMALL | settings)), job
    )
    assert sorted(pictures) == ["grids", "search"]
    return job.out, job


@pytest.mark.parametrize("method", ["uniform", "tan", "bellman", PICK])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_grids_scores_and_pictures_of_every_search(tmp_path, method, solver):
    out, job = run(tmp_path, method, solver=solver)
    found, name = read_grids(out), method if isinstance(method, str) else "best"
    assert found.method["name"] == name
    for steps, grid in found.grids.items():
        assert (grid.steps, grid.solver) == (steps, solver)
        assert grid.model_digest == model_digest(job.inputs["model"])
        assert {"uniform", name} <= found.scores[steps].keys()
        assert found.candidates[steps][name] == list(grid.times)
        best = found.scores[steps][name]
        assert best["rmse_low"] <= best["rmse"] <= best["rmse_high"]
    assert found.protocol["noises"]["report"] == 16
    assert job.facts["endpoint_rmse"]["2"].keys() == {name, "uniform"}
    assert (out / "costs.safetensors").exists() == (name in ("bellman", "best"))
    if name == "best":
        assert found.scores[4].keys() == {"best", "uniform", "bellman", "gits"}
        assert found.decisions[4]["from"] in found.candidates[4]


def test_a_single_step_is_drawn_without_a_warning(tmp_path, recwarn):
    run(tmp_path, "bellman", budgets=[1])
    assert not [warning for warning in recwarn if "legend" in str(warning.message)]


def test_a_search_in_half_precision_is_scored_in_it(tmp_path):
    exact, near = (
        read_grids(run(tmp_path / precision, "uniform", precision=precision)[0]).scores[4]["uniform"]["rmse"]
        for precision in ("float32", "bfloat16")
    )
    assert near != exact
    assert near == pytest.approx(exact, rel=0.02)


def test_costs_are_of_jumps_between_the_fine_timesteps(tmp_path):
    out, _ = run(tmp_path, {"name": "bellman", "fine_steps": 12})
    costs = load_file(out / "costs.safetensors")["costs"]
    assert costs.shape == (13, 13)
    found = read_grids(out)
    assert found.fine == uniform(12)
    timesteps = [found.fine.times.index(t) for t in found.grids[2].times]
    assert found.objective[2] == pytest.approx(
        costs[timesteps[0], timesteps[1]] + costs[timesteps[1], timesteps[2]]
    )


@pytest.mark.parametrize("method", ["tan", "edm", PICK])
def test_a_teacher_can_follow_a_fine_run_through_any_timesteps(tmp_path, method):
    out, _ = run(tmp_path, method)
    found = read_grids(out)
    assert found.fine.solver in ("heun", "euler")
    from fewstep.grids import with_timesteps

    for grid in found.grids.values():
        fine = with_timesteps(found.fine, grid.times)
        assert set(grid.times) <= set(fine.times)
        assert fine.steps >= found.fine.steps


def test_a_second_run_writes_the_same_bytes(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first, second = (run(folder, PICK)[0] for folder in folders)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["costs.safetensors", "grids.json", "grids.png", "search.png"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


class Watched(Processes):
    """Processes that a test counts, and of which it kills the first that has started."""

    pools: ClassVar[list["Watched"]] = []
    kills = 0

    def __init__(self, found):
        super().__init__(found)
        self.asked, self.victims = len(found), self.kills
        self.pools.append(self)

    def heard(self, busy):
        done = super().heard(busy)
        while self.victims:
            kill(done[0].process.pid)
            self.victims -= 1
        return done


@pytest.mark.parametrize("kills", [0, 1])
def test_any_number_of_processes_gives_the_same_bytes(kills, tmp_path, monkeypatch, begun, capfd):
    monkeypatch.setattr(parallel_problem, "Processes", Watched)
    monkeypatch.setattr(Watched, "pools", [])
    monkeypatch.setattr(Watched, "kills", kills)
    folders = []
    for processes in (1, 2):
        monkeypatch.setenv("FEWSTEP_WORKERS", str(processes))
        (tmp_path / str(processes)).mkdir()
        folder, _ = run(tmp_path / str(processes), PICK, batch=32, report_noises=100, budgets=[2])
        folders.append(folder)
    assert [pool.asked for pool in Watched.pools] == [2]
    assert ("a worker died" in capfd.readouterr().out) == bool(kills)
    for name in ("grids.json", "costs.safetensors", "search.png"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_guidance_is_searched_with_and_written_on_the_grid(tmp_path):
    found = {}
    for guidance in (1.0, 2.5):
        (tmp_path / str(guidance)).mkdir()
        out, _ = run(tmp_path / str(guidance), "tan", config={"classes": 3}, guidance=guidance)
        found[guidance] = read_grids(out)
        assert {grid.guidance for grid in found[guidance].grids.values()} == {guidance}
        assert found[guidance].fine.guidance == guidance
    assert found[1.0].scores[2]["uniform"] != found[2.5].scores[2]["uniform"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {"trained_times": "grid", "grid": uniform(2)},
            "search@base can't use model: it is trained only at",
        ),
        ({"deterministic": False}, "search@base can't use model: it is not deterministic"),
    ],
)
def test_models_that_cannot_be_searched(tmp_path, config, told):
    with pytest.raises(UserError, match=told):
        run(tmp_path, "bellman", config=config)


def test_a_student_of_equal_steps_has_none_to_search(tmp_path):
    architecture = {"name": "mlp", "second_time": True}
    model = build(ModelConfig(architecture=architecture, shape=(2,), equal_steps=4), seed=0)
    save_model(tmp_path / "short", model)
    job = job_in(tmp_path, "search", inputs=dict.fromkeys(("model", "teacher"), tmp_path / "short"))
    with pytest.raises(UserError, match="takes none that are searched; sample it with 1, 2 or 4 equal ones"):
        search.run(search.Config(teacher="short", method="uniform", budgets=[2]), job)


def test_json_keeps_floats_exactly(tmp_path):
    out, _ = run(tmp_path, {"name": "tan", "scale": 0.3}, budgets=[3])
    text = json.loads((out / "grids.json").read_text())
    assert tuple(text["grids"]["3"]["times"]) == spacings.tangent(3, scale=0.3)


def test_a_grid_says_what_it_was_searched_for_and_what_it_is_used_with():
    grid = Grid((0.0, 0.3, 1.0), "heun", 2.0, "abc")
    grid.must_suit(model="abc", guidance=2.0)
    grid.must_suit(model="abc")
    Grid((0.0, 1.0)).must_suit(model="any")
    with pytest.raises(UserError, match="searched for the model abc, but is used with xyz"):
        grid.must_suit(model="xyz")
    with pytest.raises(UserError, match=r"searched for guidance 2\.0, but is used with 1\.0"):
        grid.must_suit(model="abc", guidance=1.0)
