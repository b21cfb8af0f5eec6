"""A chain without data: samples of a model of another library stand in for it."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from jobs import Listener, job_in
from own_code import checkout_with
from pydantic import ValidationError
from safetensors.torch import save_file

from fewstep.errors import UserError
from fewstep.shards import Shards
from stages import adopt, prepare
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())
NETS = '''
import torch
from torch import nn


class Places(nn.Module):
    """The exact velocity for points near a place of their own class; without a class, near any."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(4, 2))

    def forward(self, t, x, label):
        t = t[:, None]
        spread = (1 - t) ** 2 + (0.3 * t) ** 2
        apart = x[:, None] - t[..., None] * self.places
        share = torch.softmax(-(apart**2).sum(-1) / (2 * spread), dim=1)
        own = nn.functional.one_hot(label.clamp(max=3), 4).to(x)
        share = torch.where(label[:, None] < 4, own, share)
        step = self.places + (0.09 * t - (1 - t))[..., None] / spread[..., None] * apart
        return (share[..., None] * step).sum(1)
'''
PLACES = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
FORMAT = {"name": "state_dict", "network": "nets.places:Places", "adapter": "t_x", "labels": 5, "null": True}
SAID = {"folder": "data/mine", "format": FORMAT, "prediction": "velocity", "path": "linear", "time": "t"}
TEACHER = SAID | {"samples": 400, "shape": [2], "nfe": 32, "batch": 20}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout with a network of four classes, and its weights under data/."""
    checkout_with(tmp_path, monkeypatch, "places", NETS)
    (tmp_path / "data/mine").mkdir(parents=True)
    save_file({"places": PLACES}, tmp_path / "data/mine/model.safetensors")
    return tmp_path


def prepared(folder, name="prepare", **changed):
    """Return the job of a `prepare` that ran, which has its facts."""
    job = job_in(folder / name, "prepare", inputs={"folder": Path("data/mine")})
    prepare.run(prepare.Config(teacher=TEACHER | changed), job)
    return job


def test_samples_of_a_teacher_are_the_data_with_their_classes(folder):
    job = prepared(folder)
    facts, said = job.facts, "400 samples of data/mine by 32 NFE of ab2"
    assert (facts["shape"], facts["classes"], facts["train"], facts["held_out"]) == ([2], 4, 300, 100)
    assert facts["class_shares"] == [0.25] * 4  # as the model draws them, not as they came
    assert said in facts["no_data"]
    assert facts["notes"] == [facts["no_data"]]
    train = Shards(job.out / "train").load(300)
    away = train["data"] - PLACES[train["label"]]
    assert away.std() == pytest.approx(0.3, abs=0.03)
    assert away.mean(0).abs().max() < 0.05


def test_a_killed_stage_goes_on_with_the_samples_it_made(folder, monkeypatch):
    job = prepared(folder)
    whole = sorted((job.scratch / "teacher").glob("shard-*.tar"))
    assert len(whole) == 3  # of 8 batches
    before = {file: file.read_bytes() for file in whole}
    out = {file: file.read_bytes() for file in job.out.rglob("*.tar")}
    whole[1].unlink()
    shutil.rmtree(job.out)
    from stages.preparing import teacher

    made, asked = teacher.make, []
    monkeypatch.setattr(teacher, "make", lambda *a, **named: asked.append(a[3:]) or made(*a, **named))
    prepared(folder)
    assert asked == [(160, 320)]
    assert {file: file.read_bytes() for file in whole} == before
    assert {file: file.read_bytes() for file in job.out.rglob("*.tar")} == out


def test_guidance_moves_the_samples_towards_their_class(folder):
    plain, guided = (Shards(prepared(folder, f"{w}", guidance=w).out / "train").load(300) for w in (1.0, 2.0))
    towards = [(each["data"] * PLACES[each["label"]]).mean() for each in (plain, guided)]
    assert towards[1] > towards[0] + 0.05


def adopted(folder, data, **changed):
    """Return why the stage stops, if it does, and what it noted."""
    said = []
    manifests = {"data": {"facts": data.facts}}
    inputs = {"data": data.out, "folder": Path("data/mine")}
    job = job_in(
        folder / "adopt", "adopt", "mine", inputs=inputs, manifests=manifests, progress=Listener(said)
    )
    config = adopt.Config(**SAID | changed)
    adopt.run(config, job)
    return adopt.gate(config, "mine", job.facts), said


def test_the_model_itself_is_adopted_with_them(folder):
    told, said = adopted(folder, prepared(folder))
    assert told is None
    assert "the declaration is checked on samples of a model, which show less than data" in said


def test_a_wrong_declaration_is_found_by_samples_that_were_made_under_it(folder):
    wrong = {"time": "1-t"}
    told, _ = adopted(folder, prepared(folder, **wrong), **wrong)
    assert "likelier is: time: t" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"shape": None}, r"does not say which shape .*; set prepare\.teacher\.shape, such as \[3, 32, 32\]"),
        ({"samples": 8}, "held_out 0.25 of 8 samples leaves 6 to train on"),
        ({"nfe": 33, "guidance": 2.0}, "33 NFE are no whole number of ab2 steps"),
        ({"prediction": "score"}, r"prepare\.teacher: .*Perhaps the network is not what is said of it: look"),
        ({"format": FORMAT | {"conditions": {"text": [3]}}}, r"on text, .*set prepare\.teacher\.prompts"),
        ({"classes": 5, "guidance": 2.0}, "guidance 2.0 needs a model that was trained with label_dropout"),
    ],
)
def test_models_that_can_not_make_samples_are_refused(folder, changed, told):
    with pytest.raises(UserError, match=told):
        prepared(folder, **changed)


def settings(**changed):
    return Params(RAW | {"prepare": changed})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "prepare: set source or teacher"),
        ({"source": "digits", "teacher": TEACHER}, "prepare: source and teacher are both set; remove one"),
        (
            {"teacher": TEACHER, "source_options": {"count": 3}},
            "prepare: source_options are those of a source",
        ),
        ({"teacher": TEACHER | {"folder": "/etc"}}, "prepare.teacher.folder '/etc' must be a folder under"),
        ({"teacher": TEACHER | {"time": "index"}}, "prepare.teacher.time: unknown time 'index'"),
        ({"teacher": SAID}, "prepare.teacher.samples is missing"),
        ({"teacher": TEACHER | {"solver": "ab3"}}, "prepare.teacher.solver.*unknown solver 'ab3'"),
    ],
)
def test_wrong_settings_of_a_teacher_are_refused(changed, told):
    with pytest.raises(UserError, match=told):
        checks.check(settings(**changed))


def test_only_the_teacher_is_an_input():
    config = prepare.Config(teacher=TEACHER | {"prompts": {"file": "data/prompts.txt"}})
    assert prepare.inputs(config, None) == {"folder": "data/mine", "prompts": "data/prompts.txt"}
    with pytest.raises(ValidationError):
        prepare.Config()
