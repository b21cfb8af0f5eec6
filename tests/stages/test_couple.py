"""The couple stage: which steps, what is stored, pairs from elsewhere, and mirrored ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs import job_in

from fewstep import randomness
from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.methods.reflow import Reflow
from fewstep.model import ModelConfig, build
from fewstep.noises import StudentT
from fewstep.pairs.imported import open_pairs
from fewstep.progress import Silent
from fewstep.settings import TrainSettings
from fewstep.shards import Shards, write_shards
from fewstep.solvers import integrate
from stages import couple
from stages.couple import Config
from stages.sampling.pairs import notes_of
from stages.training.training import TrainingSpec

UNET = {"name": "unet", "width": 8, "multipliers": [1]}


class Notes(Silent):
    """What was said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def write_model(folder, *, network, shape, lively=1.0, noise="gaussian"):
    """Write a model whose last layer, which starts at zero, gives velocities."""
    model = build(ModelConfig(architecture=network, shape=shape, noise=noise), seed=0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(lively * 0.1 * torch.randn(weight.shape, generator=draw))
    save_model(folder, model)
    return folder


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    network = {"name": "mlp", "width": 16, "depth": 1}
    return write_model(tmp_path_factory.mktemp("points"), network=network, shape=(2,))


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def run(model, folder, data=None, **settings):
    """Run the stage and return its job."""
    inputs = {"model": model} | ({"data": data} if data else {})
    job = job_in(folder, "couple", "test", inputs=inputs, progress=Notes())
    defaults = {"model": "base", "pairs": 40, "held_out": 24, "pairs_per_shard": 16, "gates": "warn"}
    couple.run(Config(**defaults | settings), job)
    return job


def pairs(job, split="train"):
    return Shards(job.out / split).load()


@pytest.fixture(scope="module")
def exact(points, tmp_path_factory):
    """Pairs along very small steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_WORKERS", "1")
        return pairs(run(points, tmp_path_factory.mktemp("exact"), solver="rk4", nfe=512, pairs_per_shard=64))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"nfe": 8}, {"solver": "heun", "nfe": 8, "spacing": "uniform"}),
        ({"nfe": 8, "spacing": "edm"}, {"solver": "heun", "nfe": 8, "spacing": "edm"}),
        (
            {"solver": "euler", "times": [0.0, 0.3, 1.0]},
            {"solver": "euler", "nfe": 2, "times": [0.0, 0.3, 1.0]},
        ),
        ({"tolerance": 1e-5}, {"solver": "dopri5", "tolerance": 1e-5}),
        ({"nfe": 64, "precision": "bfloat16"}, {"nfe": 64, "precision": "bfloat16"}),
    ],
)
def test_pairs_are_made_along_the_steps_asked_for_and_say_so(points, exact, tmp_path, settings, told):
    job = run(points, tmp_path, **settings)
    # random weights see even the fastest of the time's features, which an adaptive solver steps over
    coarse = {"euler": 0.3, "dopri5": 2e-3}.get(told.get("solver"), 0.1)
    assert torch.equal(pairs(job)["noise"], exact["noise"])
    torch.testing.assert_close(pairs(job)["data"], exact["data"], rtol=0, atol=coarse)
    facts = Shards(job.out / "train").facts
    assert {name: facts[name] for name in told} == told
    assert {name: job.facts[name] for name in told} == told
    assert job.facts["checks"]["count"] == 64
    assert job.facts["checks"]["duplicates"] == 0


def test_guidance_doubles_the_calls_of_given_times():
    config = Config(model="base", pairs=1, times=(0.0, 0.5, 1.0), guidance=2.0)
    assert config.steps_taken()["nfe"] == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 1e-5, "nfe": 8}, "couple.a.nfe and couple.a.tolerance both choose the steps"),
        ({"times": [0, 1], "spacing": "edm"}, "couple.a.spacing and couple.a.times both choose the steps"),
        ({"times": [0, 0.5]}, "couple.a.times: a grid starts at 0 or later and ends at 1"),
        ({"nfe": 7}, "couple.a.nfe 7: a step of heun takes 2 NFE"),
        ({"source": "../pairs.npz"}, "couple.a.source '../pairs.npz' lies outside data/"),
        ({"source": "pairs.npz", "invert": True}, "couple.a.invert makes pairs of the data, but source"),
        ({"tolerance": 1e-5, "invert": 0.5}, "couple.a.invert follows steps in reverse, and tolerance"),
        ({"noise": "drawn", "invert": True}, "couple.a.noise: that of inverted data can't be drawn"),
        (
            {"source": "pairs.npz", "noise": "drawn"},
            "couple.a.noise: that of pairs from pairs.npz",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    config = Config(**{"model": "base", "pairs": 10} | settings)
    (problem,) = config.wrong_source("couple.a") or config.wrong_steps("couple.a")
    assert problem.startswith(message)


@pytest.mark.parametrize("share", [True, 0.25])
def test_a_share_of_the_pairs_is_real_data_with_the_noise_that_leads_to_it(points, tmp_path, share):
    real = torch.randn(64, 2, generator=torch.Generator().manual_seed(3))
    data = write_shards(tmp_path / "prepare" / "train", 64, 20, lambda a, b: {"data": real[a:b]}, facts={})
    steps = {"solver": "rk4", "nfe": 256}
    job = run(points, tmp_path, invert=share, data=tmp_path / "prepare", **steps)
    made, plain = pairs(job), pairs(run(points, tmp_path / "plain", **steps))
    inverted = (made["noise"] != plain["noise"]).any(dim=1)
    assert int(inverted.sum()) == round(40 * float(share))
    assert torch.equal(made["data"][inverted], data.load()["data"][: int(inverted.sum())])
    assert torch.equal(made["data"][~inverted], plain["data"][~inverted])
    flow = as_flow(load_model(points))
    ends = integrate(flow, made["noise"][inverted], uniform(64, solver="rk4")).x
    torch.testing.assert_close(ends, made["data"][inverted], rtol=0, atol=1e-2)
    assert job.facts["invert"] == float(share)
    assert "drawn" not in Shards(job.out / "train").fields["noise"]
    assert job.facts["checks"]["count"] == 64
    alone = job.facts["inverted_checks"]
    assert alone["count"] == round(64 * float(share))
    assert alone["noise_off"] in {"mean", "variance", "tails", "spread of norms", "neighbours along axis 0"}
    assert alone["return_rmse"] < 0.01 * alone["stranger_rmse"]


def test_a_twentieth_of_inverted_pairs_is_judged_by_itself(points, tmp_path):
    """Data three times as wide as the model's samples gives noise that the other pairs would hide."""
    real = 3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(3))
    write_shards(tmp_path / "prepare" / "train", 200, 200, lambda a, b: {"data": real[a:b]}, facts={})
    settings = {"invert": 0.05, "pairs": 2000, "held_out": 200, "pairs_per_shard": 2048, "solver": "rk4"}
    job = run(points, tmp_path, data=tmp_path / "prepare", nfe=128, **settings)
    checks, alone = job.facts["checks"], job.facts["inverted_checks"]
    assert alone["count"] == 110
    assert alone["noise_z"] > 2 * checks["noise_z"]
    assert any("the noise of the 110 inverted pairs" in problem for problem in job.facts["problems"])
    assert 0.1 > checks["back_rmse"] > 0
    assert "the noise of the 110 inverted pairs" in couple.gate(Config(model="m", pairs=1), "a", job.facts)


def test_pairs_that_were_inverted_in_too_coarse_steps_are_told(tmp_path):
    network = {"name": "mlp", "width": 16, "depth": 1}
    points = write_model(tmp_path / "lively", network=network, shape=(2,), lively=6.0)
    real = torch.randn(64, 2, generator=torch.Generator().manual_seed(3))
    write_shards(tmp_path / "prepare" / "train", 64, 64, lambda a, b: {"data": real[a:b]}, facts={})
    job = run(points, tmp_path, invert=0.5, data=tmp_path / "prepare", solver="euler", nfe=1)
    told = " ".join(job.facts["problems"] + job.facts["advice"])
    assert "following the flow from the noise of inverted pairs" in told
    assert "take more calls" in told


def test_a_single_inverted_pair_can_not_be_checked(points, tmp_path):
    write_shards(
        tmp_path / "prepare" / "train", 64, 64, lambda a, b: {"data": torch.zeros(b - a, 2)}, facts={}
    )
    with pytest.raises(UserError, match="inverts 1 of 64 pairs, and they are checked against each other"):
        run(points, tmp_path, invert=0.02, data=tmp_path / "prepare")


def test_more_real_data_than_there_is_can_not_be_inverted(points, tmp_path):
    write_shards(
        tmp_path / "prepare" / "train", 63, 63, lambda a, b: {"data": torch.zeros(b - a, 2)}, facts={}
    )
    with pytest.raises(UserError, match="inverts 64 samples, but there are 63 to train on; lower invert"):
        run(points, tmp_path, invert=True, data=tmp_path / "prepare")


def test_drawn_noise_is_not_stored_and_reads_the_same(points, tmp_path):
    drawn, stored = (run(points, tmp_path / noise, nfe=4, noise=noise) for noise in ("drawn", "stored"))
    assert "drawn" in Shards(drawn.out / "train").fields["noise"]
    assert "drawn" not in Shards(stored.out / "train").fields["noise"]
    for split in ("train", "held_out"):
        for name, values in pairs(stored, split).items():
            assert torch.equal(pairs(drawn, split)[name], values)
    assert drawn.facts["checks"] == stored.facts["checks"]


@pytest.fixture
def foreign(points, tmp_path):
    """Pairs of the model as another tool would keep them."""
    made = run(points, tmp_path / "made", nfe=32)
    both = [pairs(made, split) for split in ("train", "held_out")]
    fields = {name: np.concatenate([part[name].numpy() for part in both]) for name in ("noise", "data")}
    np.savez(tmp_path / "data/pairs.npz", **fields)
    return fields, made


def test_pairs_from_elsewhere_become_a_coupling_after_the_same_checks(points, tmp_path, foreign):
    _, made = foreign
    taken = run(points, tmp_path / "taken", source="pairs.npz", nfe=32)
    for split in ("train", "held_out"):
        for name, values in pairs(made, split).items():
            assert torch.equal(pairs(taken, split)[name], values)
    assert taken.facts["checks"] == made.facts["checks"]
    assert Shards(taken.out / "train").facts["source"] == "pairs.npz"
    assert couple.inputs(Config(model="base", pairs=1, source="pairs.npz"), "test") == {
        "model": "artifacts/models/base",
        "data": "artifacts/prepare",
        "source": "data/pairs.npz",
    }


def test_pairs_that_are_not_taken_are_noted(points, tmp_path, foreign):
    fields, _ = foreign
    np.savez(tmp_path / "data/more.npz", **fields, t=np.ones(64))
    taken = run(points, tmp_path / "taken", source="more.npz", nfe=32, pairs=30)
    assert taken.facts["notes"] == [
        "data/more.npz: passed over 1 t",
        "the first 54 of 64 pairs are taken",
    ]


def test_labels_of_other_shares_than_the_models_are_reported(tmp_path):
    label = np.resize([0, 1], 20)
    np.savez(tmp_path / "data/p.npz", noise=np.ones((20, 2)), data=np.ones((20, 2)), label=label)
    pairs = open_pairs("p.npz", tmp_path)
    config = ModelConfig(architecture={}, shape=(2,), classes=2, class_shares=(0.9, 0.1))
    (note,) = notes_of(pairs, 20, config)
    assert note.startswith("class 0 is 0.5 of the pairs, but 0.9 by class_shares")
    assert notes_of(pairs, 20, replace(config, class_shares=(0.5, 0.5))) == []


def test_reversed_pairs_from_elsewhere_stop_the_chain_with_that_word(points, tmp_path, foreign):
    fields, _ = foreign
    np.savez(tmp_path / "data/turned.npz", noise=3 * fields["data"], data=fields["noise"])
    taken = run(points, tmp_path / "taken", source="data/turned.npz", nfe=32)
    assert "reversed" in taken.facts["problems"][0]
    config = Config(model="base", pairs=40, source="turned.npz")
    assert "reversed" in couple.gate(config, "test", json.loads(json.dumps(taken.facts)))
    assert couple.gate(config.model_copy(update={"gates": "warn"}), "test", taken.facts) is None


def test_fewer_pairs_than_are_asked_for_are_counted(points, tmp_path, foreign):
    with pytest.raises(UserError, match=r"pairs\.npz holds 64 pairs, but couple\.test asks for 124"):
        run(points, tmp_path / "taken", source="pairs.npz", pairs=100)


@pytest.mark.parametrize(
    ("weighed", "told"), [(slice(40, 64), "40 pairs to train on"), (slice(40), "24 pairs to hold out")]
)
def test_pairs_that_all_weigh_nothing_are_refused(points, tmp_path, foreign, weighed, told):
    weight = np.zeros(64, np.float32)
    weight[weighed] = 1
    np.savez(tmp_path / "data/light.npz", **foreign[0], weight=weight)
    with pytest.raises(UserError, match=rf"light\.npz: all {told} have the weight 0, which leaves no loss"):
        run(points, tmp_path / "taken", source="light.npz", nfe=32)
    weight[[0, 63]] = 1  # of shards some may weigh nothing
    np.savez(tmp_path / "data/light.npz", **foreign[0], weight=weight)
    assert "checks" in run(points, tmp_path / "light", source="light.npz", nfe=32).facts


def test_pairs_of_another_shape_are_refused_before_any_work(points, tmp_path):
    np.savez(tmp_path / "data/wide.npz", noise=np.zeros((64, 3)), data=np.zeros((64, 3)))
    with pytest.raises(UserError, match=r"wide\.npz holds pairs of shape \(3,\), but the model takes \(2,"):
        run(points, tmp_path / "taken", source="wide.npz")
    assert not list((tmp_path / "taken/out").rglob("*.tar"))


def test_a_model_that_tells_left_from_right_makes_no_mirrored_pairs(tmp_path):
    lively = write_model(tmp_path / "lively", network=UNET, shape=(1, 8, 8))
    still = write_model(tmp_path / "still", network=UNET, shape=(1, 8, 8), lively=0)
    with pytest.raises(UserError, match=r"couple\.test\.mirror needs an equivariant teacher: .* by 0\.\d+"):
        run(lively, tmp_path / "a", nfe=4, mirror=True)
    job = run(still, tmp_path / "b", nfe=4, mirror=True)
    assert job.facts["mirror_error"] == 0
    assert Shards(job.out / "train").facts["mirror"] is True


def test_the_log_tells_what_the_pairs_will_take(points, tmp_path):
    job = run(points, tmp_path, nfe=4)
    assert job.progress.said[0].startswith("64 of 64 to make x 4 NFE on 1 workers: about 0:0")


@pytest.mark.parametrize("stored", ["drawn", "stored"])
def test_pairs_of_other_noise_are_drawn_checked_and_noted_by_its_law(tmp_path, stored):
    noise = {"name": "student_t", "degrees": 3.0}
    network = {"name": "mlp", "width": 16, "depth": 1}
    model = write_model(tmp_path / "model", network=network, shape=(2,), noise=noise)
    job = run(model, tmp_path / "out", pairs=400, pairs_per_shard=200, noise=stored)
    keys = randomness.keys_of(job.seed, 0, 400)
    assert pairs(job)["noise"].equal(StudentT(3).draw("couple", keys, (2,)))
    assert job.facts["noise"] == noise
    assert job.facts["checks"]["noise_z"] < 5
    student = build(ModelConfig(architecture=network, shape=(2,)), seed=0)
    with pytest.raises(UserError, match=r"made of noise .*student_t.*, but the model starts from gaussian"):
        TrainingSpec(Reflow(), student, TrainSettings(steps=1, batch=8), job.out).task(job)
