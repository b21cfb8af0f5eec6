"""The stage adopt, on weights of a network of the user's own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from jobs import job_in
from own_code import checkout_with
from safetensors.torch import save_file
from students import STRAIGHT

from fewstep.checkpoint import CONDITIONS, load_model
from fewstep.conditions import Table
from fewstep.errors import UserError
from fewstep.shards import write_shards
from stages import adopt
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())
NETS = '''
import torch
from torch import nn


class Exact(nn.Module):
    """The exact velocity for data that is `at` or `-at`, each half of the time."""

    def __init__(self, channels):
        super().__init__()
        self.at = nn.Parameter(torch.zeros(channels, 4, 4))

    def forward(self, t, x):
        t = t[:, None, None, None].clamp(max=0.999)
        side = torch.tanh((t / (1 - t) ** 2 * x * self.at).flatten(1).sum(1))[:, None, None, None]
        return (side * self.at - x) / (1 - t)


class Told(nn.Module):
    """The exact velocity for data that is `place`, with features (4,), in each row."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros(1, 4, 4))

    def forward(self, t, x, place):
        t = t[:, None, None, None].clamp(max=0.999)
        return (place[:, None, None] + 0 * self.at - x) / (1 - t)
'''
FORMAT = {"name": "state_dict", "network": "nets.exact:Exact", "options": {"channels": 1}, "adapter": "t_x"}
SAID = {"folder": "data/mine", "format": FORMAT, "prediction": "velocity", "path": "linear", "time": "t"}


@pytest.fixture
def job(tmp_path, monkeypatch):
    checkout_with(tmp_path, monkeypatch, "exact", NETS)
    (tmp_path / "data/mine").mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    at = torch.rand(1, 4, 4, generator=draw)
    save_file({"at": at}, tmp_path / "data/mine/model.safetensors")
    side = torch.randint(2, (256, 1, 1, 1), generator=draw) * 2 - 1
    data = {"data": side * at + 0.01 * torch.randn(256, 1, 4, 4, generator=draw)}
    write_shards(tmp_path / "prepared/held_out", 256, 256, lambda a, b: {"data": data["data"][a:b]}, facts={})
    facts = {"shape": [1, 4, 4], "units": None, "classes": 0, "class_shares": [], "class_names": []}
    inputs = {"data": tmp_path / "prepared", "folder": Path("data/mine")}
    return job_in(tmp_path, "adopt", "mine", inputs=inputs, manifests={"data": {"facts": facts}})


def run(job, **changed):
    config = adopt.Config(**SAID | changed)
    adopt.run(config, job)
    return adopt.gate(config, "mine", job.facts)


def test_a_model_is_adopted_and_read_like_any_other(job):
    assert run(job) is None
    model = load_model(job.out)
    assert list(model.network.state_dict()) == ["network.at"]
    assert job.facts["ratio"] < 0.5
    assert (job.out / "samples.png").exists()


def test_a_network_of_the_users_own_takes_conditions_by_name(job):
    place = torch.randn(256, 4, generator=torch.Generator().manual_seed(3))
    data = {"data": place[:, None, None].expand(256, 1, 4, 4), "place": place}
    held_out = job.inputs["data"].with_name("placed") / "held_out"
    write_shards(held_out, 256, 256, lambda a, b: {n: f[a:b] for n, f in data.items()}, facts={})
    Table(rows={"place": place.numpy()}).save(held_out.with_name(CONDITIONS))
    facts = job.manifests["data"]["facts"] | {"conditions": {"place": [4]}}
    inputs = job.inputs | {"data": held_out.parent}
    told = FORMAT | {"network": "nets.exact:Told", "options": {}, "conditions": {"place": [4]}}
    job = replace(job, inputs=inputs, manifests={"data": {"facts": facts}})
    assert run(job, format=told) is None
    assert job.facts["ratio"] < 0.01
    assert load_model(job.out).config.conditions == {"place": (4,)}
    with pytest.raises(UserError, match="the adapter edm gives a network no place; take x_t or t_x"):
        run(job, format=told | {"adapter": "edm"})


def test_a_wrong_declaration_stops_the_chain_unless_it_is_told_not_to(job):
    told = run(job, prediction="noise")
    assert "likelier is: prediction: velocity" in told
    assert "set adopt.mine.gates to warn" in told
    assert run(replace(job, facts={}), prediction="noise", gates="warn") is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"network": "nets.other:Exact"}, "there is no nets/other.py in .*; put it there"),
        ({"network": "nets.exact:Other"}, "nets/exact.py has no torch module 'Other'"),
        ({"network": "nets.exact:torch"}, "nets/exact.py has no torch module 'torch'"),
        ({"network": "os:system"}, "there is no os.py in .*; put it there"),
        ({"options": {}}, "network nets.exact:Exact: .*channels"),
        ({"options": {"channels": 3}}, r"at has shape \[1, 4, 4\], the network has of shape \[3, 4, 4\]"),
    ],
)
def test_a_network_that_can_not_be_is_refused(job, changed, told):
    with pytest.raises(UserError, match=told):
        run(job, format=FORMAT | changed)


def test_code_that_came_with_a_model_is_not_run(job):
    """A model directory names a file of the folder that it was unpacked in."""
    run(job)
    config = json.loads((job.out / "config.json").read_text())
    other_folder = Path("data/a/b")
    other_folder.mkdir(parents=True)
    Path("data/evil.py").write_text("open('ran', 'w')\n" + NETS)
    Path("evil.py").write_text(Path("data/evil.py").read_text())
    (other_folder / "model.safetensors").write_bytes((job.out / "model.safetensors").read_bytes())
    config["architecture"]["network"] = "data.evil:Exact"
    (other_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"data/ holds weights, such as data/.*may have come with a model"):
        load_model(other_folder)
    config["architecture"]["network"] = "evil:Exact"  # in a folder that is worked in, but is no checkout
    (other_folder / "config.json").write_text(json.dumps(config))
    Path("dvc.yaml").unlink()
    with pytest.raises(UserError, match="code is imported only if fewstep runs in its checkout"):
        load_model(other_folder)
    assert not Path("ran").exists()


def test_missing_declarations_are_asked_for(job):
    with pytest.raises(UserError, match="does not say the path and the time of the network; set path, time"):
        run(job, path=None, time=None)


def settings(**adopt):
    return Params(RAW | {"adopt": adopt})


def test_an_adopted_model_has_its_key_for_a_name_everywhere():
    params = settings(mine=SAID)
    params.raw["couple"] = RAW["couple"] | {"more": {"model": "mine", "pairs": 64, "guidance": 3.0}}
    params.raw["search"] = RAW["search"] | {"mine": RAW["search"]["base"] | {"teacher": "mine"}}
    student = STRAIGHT | {"teacher": "mine", "init": "mine"}
    params.raw["distill"] = RAW["distill"] | {"four": student | {"train_on": "trajectories/mine"}}
    params.raw["trajectories"] = RAW["trajectories"] | {"mine": {"samples": 64}}
    params.raw["evaluate"] = RAW["evaluate"] | {"reference": "mine"}
    checks.check(params)
    assert params.inputs("distill", "four")["teacher"] == "artifacts/models/mine"
    assert "model mine" in params.inputs("evaluate")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"folder": "/etc"}, "adopt.mine.folder '/etc' must be a folder under data/"),
        ({"folder": "./data/mine"}, "adopt.mine.folder './data/mine': write it as data/mine"),
        (
            {"prompts": {"file": "prompts.txt"}},
            "adopt.mine.prompts.file 'prompts.txt' must be a file under data/",
        ),
        ({"prompts": {"file": "data/a.txt", "tokens": 0}}, r"adopt\.mine\.prompts\.tokens"),
        ({"path": "curve"}, "adopt.mine.path: unknown path 'curve'"),
        ({"path": {"name": "table", "betas": 1}}, "adopt.mine.path: path table: unknown option 'betas'"),
        ({"prediction": "epsilon"}, "adopt.mine.prediction: unknown prediction 'epsilon'"),
        ({"time": "index"}, "adopt.mine.time: unknown time 'index'"),
        ({"format": "pickle"}, "unknown format 'pickle'.*diffusers, dit, edm, sit, state_dict"),
        ({"format": FORMAT | {"network": "nets"}}, "'nets' must be module:Class, such as networks.unet:Unet"),
        ({"format": FORMAT | {"adapter": "xt"}}, "unknown adapter 'xt'; did you mean 'x_t'"),
    ],
)
def test_wrong_settings_of_adopt_are_refused(changed, told):
    with pytest.raises(UserError, match=told):
        checks.check(settings(mine=SAID | changed))


def test_names_are_not_doubled_and_the_reference_is_a_teacher():
    with pytest.raises(UserError, match=r"adopt\.round1 and reflow\.round1 would both be the model 'round1'"):
        checks.check(settings(round1=SAID))
    params = settings()
    params.raw["evaluate"] = RAW["evaluate"] | {"reference": "boss-4"}
    with pytest.raises(UserError, match=r"evaluate\.reference 'boss-4' is no teacher; there are: base"):
        checks.check(params)


def test_a_model_directory_of_fewstep_belongs_into_pretrain(job):
    """As `fewstep average` writes one."""
    run(job)
    folder = Path("data/mine")
    for file in job.out.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    params = Params(RAW | {"adopt": {"narrow": {"folder": "data/mine"}}})
    with pytest.raises(UserError) as caught:
        checks.check(params)
    assert str(caught.value).splitlines()[1:] == [
        "  adopt.narrow.folder 'data/mine' is a model directory of fewstep, and adopt takes models of "
        "other libraries; remove adopt.narrow, and set pretrain.narrow.checkpoint to it"
    ]
    with pytest.raises(
        UserError, match=r"model directory of fewstep, .* takes it as pretrain\.KEY\.checkpoint"
    ):
        run(job, format="diffusers")
    for text in ("no JSON", "[]", '{"architecture": "resnet50"}'):  # of what a format may have there
        (folder / "config.json").write_text(text)
        assert adopt.check(params) == []
