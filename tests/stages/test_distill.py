"""distill as a stage: students of any number of calls, and students that start from one."""

from dataclasses import replace

import pytest
import torch
from jobs import job_in, write_pairs

from fewstep import grids, refining
from fewstep.checkpoint import load_config, load_model, model_digest, save_model
from fewstep.conditions import Conditions
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.flow import as_flow, at_one_time
from fewstep.lora_settings import LoraSettings
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.pairs import make_trajectories
from fewstep.progress import SILENT
from fewstep.settings import TrainSettings
from fewstep.shards import write_shards
from fewstep.solvers import integrate
from stages import distill, search
from stages.evaluation.evaluation import turns_of
from stages.evaluation.listed import entries_of
from stages.sampling.open_model import open_flow
from stages.searching.grids_file import SearchedGrids, read_grids, write_grids
from stages.settings.students import must_continue
from stages.training.task import TrainTask

FINE = grids.uniform(8, solver="heun")
TRAIN = {"steps": 20, "batch": 16}
LORA = {"rank": 2, "alpha": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What distill reads: a model of points, its search, its trajectories with all states, and data."""
    folder = tmp_path_factory.mktemp("inputs")
    teacher = build(ModelConfig(architecture={"name": "mlp", "width": 16, "depth": 1}, shape=(2,)), seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    save_model(folder / "teacher", teacher)
    marks = {"model_digest": model_digest(folder / "teacher")}
    found = {steps: replace(grids.uniform(steps), **marks) for steps in (1, 2)}
    (folder / "search").mkdir()
    write_grids(folder / "search", SearchedGrids(grids=found, fine=replace(FINE, **marks), method={}), None)

    def make(start, stop):
        with torch.no_grad():
            made = {
                "timesteps": FINE.times,
                "fine": FINE,
                "batch": 32,
                "shape": (2,),
                "conditions": Conditions(),
            }
            return make_trajectories(as_flow(teacher), seed=0, start=start, stop=stop, **made)

    facts = {"timesteps": list(FINE.times), "guidance": 1.0, "model": marks["model_digest"]}
    for split, count in (("train", 64), ("held_out", 32)):
        write_shards(folder / "trajectories" / split, count, 32, make, facts=facts)
        data = torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
        write_shards(
            folder / "data" / split,
            count,
            32,
            lambda a, b: {"data": data[a:b]},  # noqa: B023
            facts={"pixels": False},
        )
    names = {"init": "teacher", "teacher": "teacher", "search": "search", "data": "data"}
    return {name: folder / place for name, place in names.items()} | {"train_on": folder / "trajectories"}


def distilled(folder, inputs, **changes):
    """Run the stage in this process and return the job."""
    job = job_in(folder, "distill", "student", inputs=inputs)
    distill.run(configured(**changes), job)
    return job


def configured(**changes):
    """Return the settings of a student."""
    models = {"init": "base", "teacher": "base", "train_on": "trajectories/base"}
    return distill.Config(**models | {"train": TRAIN} | changes)


@pytest.fixture(scope="module")
def any_step(tmp_path_factory, inputs):
    return distilled(tmp_path_factory.mktemp("any step"), inputs, method="flow_map", nfe="any")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")


def test_a_flow_map_carries_no_grid_and_is_measured_at_every_nfe(any_step):
    student, facts = load_model(any_step.out), any_step.facts
    known = student.config
    assert (known.trained_times, known.grid, known.velocity_until) == ("all", None, "any")
    assert known.map_preserving
    assert facts["held_out_loss"] < 0.9 * facts["first_held_out_loss"]
    assert (any_step.out / "samples.png").exists()
    job = replace(any_step, inputs={"model any-step": any_step.out})
    entries = entries_of("any-step", student, (1, 2, 4, 8), job)
    assert [entry.name for entry in entries] == [f"any-step@{nfe}" for nfe in (1, 2, 4, 8)]
    assert turns_of(student, seed=0) is None


def test_a_flow_map_is_learned_from_pairs_and_goes_on_from_its_own_samples(any_step, inputs, tmp_path):
    noise = {
        split: torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
        for split, count in (("train", 64), ("held_out", 32))
    }
    write_pairs(tmp_path / "pairs", inputs["teacher"], scale=2.0, **noise)
    by_pairs = distilled(
        tmp_path / "pairs student", inputs | {"train_on": tmp_path / "pairs"}, method="meanflow", nfe="any"
    )
    config = load_config(by_pairs.out)
    assert (config.velocity_until, config.architecture["slow_times"]) == ("any", True)
    assert by_pairs.facts["held_out_loss"] < by_pairs.facts["first_held_out_loss"]
    own = inputs | {"init": any_step.out, "train_on": inputs["data"]}
    on_policy = distilled(tmp_path / "on policy", own, method="anyflow", init="any-step", nfe="any")
    config = load_config(on_policy.out)
    assert (config.velocity_until, config.grid, config.map_preserving) == ("any", None, False)
    assert model_digest(on_policy.out) != model_digest(any_step.out)
    with pytest.raises(UserError, match="is no flow map, which method anyflow trains further"):
        distilled(tmp_path / "none", inputs | {"train_on": inputs["data"]}, method="anyflow", nfe="any")


def test_a_student_of_equal_steps_is_pictured_with_them_and_forgets_them_in_another_training(
    inputs, tmp_path
):
    given, method = inputs | {"train_on": inputs["data"]}, {"name": "shortcut", "finest": 2}
    short = distilled(tmp_path / "short", given, method=method, train_on="prepare", nfe="any")
    assert load_config(short.out).equal_steps == 2
    assert (short.out / "samples.png").exists()
    start = inputs | {"init": short.out}
    other = distilled(tmp_path / "other", start, method="flow_map", init="short", nfe="any")
    assert load_config(other.out).equal_steps is None


def test_a_plan_measures_the_student_that_would_be_trained_and_makes_nothing(any_step, inputs, tmp_path):
    job = job_in(tmp_path, "distill", "student", inputs=inputs)
    plan = distill.plan(configured(method="flow_map", nfe="any"), job)
    assert plan.measured.trained == any_step.facts["parameters"]
    assert plan.batch == TRAIN["batch"]
    assert not list(job.out.iterdir())
    assert not list(job.scratch.iterdir())


def test_weights_of_a_student_depend_on_the_seed_alone(any_step, inputs, tmp_path):
    assert model_digest(distilled(tmp_path, inputs, method="flow_map", nfe="any").out) == model_digest(
        any_step.out
    )


def test_a_student_of_a_grid_may_start_from_a_flow_map_and_learns_its_steps(any_step, inputs, tmp_path):
    start = inputs | {"init": any_step.out}
    again = distilled(tmp_path, start, method="straighten", init="any-step", nfe=2)
    student = load_model(again.out)
    assert (student.config.trained_times, student.config.velocity_until) == ("grid", "any")
    assert student.config.grid.steps == 2
    # Its first loss is that of the flow map's own two steps, not of its velocities at one time.
    assert again.facts["first_held_out_loss"] < any_step.facts["first_held_out_loss"]


@pytest.mark.parametrize("teacher", ["any-step", "base"])
def test_steps_of_a_flow_map_are_searched_and_measured(any_step, inputs, tmp_path, teacher):
    folders = {"model": any_step.out, "teacher": any_step.out if teacher == "any-step" else inputs["teacher"]}
    job = job_in(tmp_path, "search", "any-step", inputs=folders)
    few = {"batch": 64, "truth_steps": 16, "report_noises": 64}
    method = {"name": "coordinate_descent", "noises": 64}
    search.run(search.Config(teacher=teacher, method=method, budgets=(1, 3), **few), job)
    found, student = read_grids(job.out), load_model(any_step.out)
    assert found.protocol["truth"] == f"16 equal heun steps of {teacher}"
    ((noise, _),) = draws_of(student, "search", 0, range(3 << 32, (3 << 32) + 64), batch=64, device="cpu")
    with torch.no_grad():
        flow = as_flow(student)
        followed = at_one_time(flow) if teacher == "any-step" else as_flow(load_model(inputs["teacher"]))
        truth = integrate(followed, noise, grids.uniform(16, solver="heun")).x
        ends = integrate(flow, noise, found.grids[3]).x
    error = (ends - truth).square().mean().sqrt().item()
    assert found.scores[3]["coordinate_descent"]["rmse"] == pytest.approx(error, rel=1e-3)
    assert error < found.scores[3]["uniform"]["rmse"]
    listed = entries_of(
        "any-step",
        student,
        (1, 3),
        replace(any_step, inputs={"model any-step": any_step.out, "search any-step": job.out}),
    )
    assert [entry.name for entry in listed] == ["any-step@1", "any-step@3", "any-step@3/coordinate_descent"]
    assert listed[-1].grid == found.grids[3]


def test_phases_are_solved_by_the_teacher_from_data_without_stored_trajectories(inputs, tmp_path):
    own = inputs | {"train_on": inputs["data"]}
    method = {"name": "phased", "learn_from": "data", "teacher_steps": 2}
    job = distilled(tmp_path, own, method=method, nfe=2, train_on="prepare")
    config = load_config(job.out)
    assert (config.trained_times, config.grid.steps, config.map_preserving) == ("grid", 2, True)
    assert job.facts["held_out_loss"] < job.facts["first_held_out_loss"]


def test_a_flow_map_gives_no_velocity_to_stages_that_ask_for_one(any_step):
    with pytest.raises(UserError, match="search can't use out: it is a flow map"):
        open_flow(any_step.out, purpose="search")


def test_a_student_shows_the_guidance_that_its_teacher_shows_unasked(inputs, tmp_path):
    teacher = load_model(inputs["teacher"])
    teacher.config = replace(teacher.config, baked_guidance=2.0)
    save_model(tmp_path / "teacher", teacher)
    fine = replace(FINE, model_digest=model_digest(tmp_path / "teacher"))
    (tmp_path / "search").mkdir()
    write_grids(tmp_path / "search", SearchedGrids(grids={}, fine=fine, method={}), None)
    own = {"teacher": tmp_path / "teacher", "search": tmp_path / "search", "train_on": inputs["data"]}
    job = job_in(tmp_path, "distill", "student", inputs=inputs | own)
    config = configured(method="flow_map_distillation", nfe="any", train_on="prepare")
    assert distill.training_spec(config, job).student.config.baked_guidance == 2.0


def test_a_student_of_one_grid_can_not_go_on_with_any():
    grid = grids.uniform(4)
    config = ModelConfig(architecture={"name": "mlp"}, shape=(2,), trained_times="grid", grid=grid)
    with pytest.raises(UserError, match=r"straight was trained for the grid .* further for any grid"):
        must_continue("straight", config, None)


def test_a_refiner_is_trained_beside_its_teacher_and_samples_with_it(inputs, tmp_path):
    small = {"name": "mlp", "width": 8, "depth": 1}
    job = distilled(
        tmp_path,
        inputs | {"train_on": inputs["data"]},
        method="refiner",
        nfe="any",
        model=small,
        train_on="prepare",
    )
    refiner, teacher = load_model(job.out), load_model(inputs["teacher"])
    assert refiner.config.refined_model == model_digest(inputs["teacher"])
    assert job.facts["held_out_loss"] < job.facts["first_held_out_loss"]
    assert not (job.out / "samples.png").exists()
    with torch.no_grad():
        made = refining.follow(as_flow(teacher), refiner, torch.randn(4, 2), refining.Blocks(1, 1, 1))
    assert (made.nfe, made.refinements) == (3, 2)
    with pytest.raises(UserError, match="is a refiner"):
        open_flow(job.out, purpose="couple")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, inputs):
    """A student of two steps that was trained as an adapter over its teacher."""
    folder = tmp_path_factory.mktemp("adapter")
    return distilled(folder, inputs, method="straighten", nfe=2, lora=LORA)


def test_an_adapter_is_trained_over_what_the_student_starts_from(adapter, inputs):
    base = (inputs["init"] / "model.safetensors").read_bytes()
    assert (adapter.out / "model.safetensors").read_bytes() == base
    known = load_config(adapter.out)
    assert known.lora == LoraSettings(**LORA)
    assert known.lora_base == model_digest(inputs["init"])
    assert 0 < adapter.facts["lora_parameters"] < 0.5 * adapter.facts["parameters"]
    assert adapter.facts["held_out_loss"] < 0.95 * adapter.facts["first_held_out_loss"]
    job = replace(adapter, inputs={"model adapter": adapter.out})
    entries = entries_of("adapter", load_model(adapter.out), (2,), job)
    assert [entry.name for entry in entries] == ["adapter@2"]


def test_a_student_goes_on_with_an_adapter_or_trains_all_weights(adapter, inputs, tmp_path):
    given = inputs | {"init": adapter.out, "train_on": inputs["data"]}
    settings = {"method": {"name": "dmd", "fake_warmup": 1}, "train": {"steps": 2, "batch": 16}}
    onwards, whole = (
        distilled(tmp_path / str(lora), given, nfe=2, lora=lora, train_on="prepare", **settings)
        for lora in (LORA, None)
    )
    assert load_config(onwards.out).lora_base == model_digest(inputs["init"])
    base, first, second = (
        (folder / "model.safetensors").read_bytes() for folder in (inputs["init"], onwards.out, whole.out)
    )
    assert base == first != second
    assert load_config(whole.out).lora is None
    assert not (whole.out / "lora.safetensors").exists()
    assert (adapter.out / "lora.safetensors").read_bytes() != (onwards.out / "lora.safetensors").read_bytes()


def test_each_process_of_a_training_gets_the_adapter(adapter, inputs, tmp_path):
    task = TrainTask(
        FlowMatching(), TrainSettings(steps=1, batch=16), inputs["data"], None, 0, tmp_path, inputs
    )
    save_model(task.start, load_model(adapter.out, merge=False))
    assert task.take_part(SILENT)["skipped"] == 0
    base = (inputs["init"] / "model.safetensors").read_bytes()
    assert (task.end / "model.safetensors").read_bytes() == base
    assert load_config(task.end).lora == LoraSettings(**LORA)
