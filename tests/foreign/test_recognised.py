"""`fewstep adopt` of weights that are no folder of diffusers: what format they are in, and their lines."""

import json
import re
import sys
from functools import partial

import pytest
import torch
from foreign import surveying
from foreign.surveying import chosen, prepared, section
from safetensors.torch import save_file
from tiny_networks import SHAPE, awake
from torch import nn

from fewstep.foreign import own_code
from fewstep.foreign.assemble import config_of
from fewstep.models.adm import Adm
from fewstep.networks.dit import DitNetwork

NETS = """
from torch import nn


class Precond(nn.Module):
    def __init__(self, img_resolution, img_channels):
        super().__init__()
        self.model = nn.ModuleDict({"map_layer0": nn.Conv2d(img_channels, img_channels, 1)})

    def forward(self, x, sigma):
        return self.model["map_layer0"](x)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with data and the file of a network, which counts as a checkout for code of your own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nets", "nets.precond"):  # of the test before
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(own_code, "checkout_of", lambda folder: folder)
    for folder in ("data", "nets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "nets/precond.py").write_text(NETS)
    return tmp_path


@pytest.fixture
def ask(capsys):
    return partial(surveying.ask, capsys)


def weights_of(folder, network):
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        folder / "model.safetensors",
    )


def of_sit():
    return awake(
        DitNetwork(
            SHAPE, 5, width=24, depth=1, heads=2, patch=2, variance=True, conditions={}, second_time=False
        )
    )


def of_torchcfm(classes=0):
    torch.manual_seed(0)
    return awake(Adm(attention=(1,), labels=classes).build(SHAPE, classes))


def of_edm():
    return nn.ModuleDict({"model": nn.ModuleDict({"map_layer0": nn.Conv2d(4, 4, 1)})})


EDM = {"name": "edm", "network": "nets.precond:Precond", "options": {"img_resolution": 8, "img_channels": 4}}


@pytest.mark.parametrize(
    ("network", "format", "told"),
    [
        (of_sit, {"name": "sit", "heads": 2}, ("dit, in the format sit", "(4, 8, 8)", "5")),
        (of_sit, {"name": "dit", "heads": 2}, ("dit, in the format dit", "(4, 8, 8)", "5")),
        (
            of_torchcfm,
            {"name": "torchcfm", "heads": 4},
            ("adm, in the format torchcfm", "(4, any, any)", "0"),
        ),
        (
            lambda: of_torchcfm(5),
            {"name": "torchcfm", "heads": 4},
            ("adm, in the format torchcfm", "(4, any, any)", "5"),
        ),
        (of_edm, EDM, ("nets.precond:Precond, in the format edm", "(4, 8, 8)", "0")),
    ],
    ids=["sit", "dit", "torchcfm", "torchcfm with labels", "edm"],
)
def test_weights_without_a_folder_of_diffusers_get_lines_of_settings(here, ask, network, format, told):
    weights_of(here / "data/theirs", network())
    said, ended = ask("data/theirs", "--format", json.dumps(format))
    assert ended is None
    for name, value in zip(("network", "samples", "classes"), told, strict=True):
        assert f"{name + ':':12}{value}\n" in said
    found, config = chosen(section(said)["adopt"]["theirs"])
    assert config == config_of(found, SHAPE, {})
    assert ("note: if the last of its 5 labels is the null condition" in said) == (
        format["name"] == "torchcfm" and told[2] == "5"
    )


def test_weights_are_recognised_by_their_names(here, ask):
    weights_of(
        here / "data/large",
        DitNetwork(
            SHAPE, 5, width=384, depth=1, heads=6, patch=2, variance=True, conditions={}, second_time=False
        ),
    )
    assert ask("data/large")[1] == (
        "data/large has weights as dit and sit have them: say which, by --format dit or --format sit"
    )
    said, ended = ask("data/large", "--format", "sit")
    assert ended is None
    assert section(said)["adopt"]["large"]["format"] == "sit"
    weights_of(here / "data/cfm", of_torchcfm())
    assert ask("data/cfm")[1].startswith("data/cfm: no weight says how many heads its attentions have; set")
    weights_of(here / "data/edm", of_edm())
    assert ask("data/edm")[1].endswith(
        "which don't say the network; give that with the format's other settings, as --format "
        """'{"name": "edm", "network": "..."}'"""
    )
    weights_of(here / "data/mine", nn.Linear(2, 2))
    assert "have names that no format knows, such as bias; put a file with" in ask("data/mine")[1]
    (here / "data/pickled").mkdir()
    (here / "data/pickled/net.pt").touch()
    assert "has no weights but net.pt, which may run code when it is read; load" in ask("data/pickled")[1]


def test_weights_of_your_own_class_leave_the_rest_to_you(here, ask):
    weights_of(here / "data/mine", of_edm())
    options = {"img_resolution": 8, "img_channels": 4}
    format = {"name": "state_dict", "network": "nets.precond:Precond", "options": options, "adapter": "x_t"}
    prepared(here, {"data": torch.randn(16, *SHAPE)})
    said, ended = ask("data/mine", "--format", json.dumps(format))
    assert ended is None
    assert "samples:    nothing says their shape\n" in said
    assert "left out: set prediction, path, time below" in said
    assert section(said)["adopt"]["mine"]["format"] == format


def test_weights_are_checked_on_data(here, ask, at_one_time):
    weights_of(here / "data/cfm", of_torchcfm())
    prepared(here, {"data": torch.randn(16, *SHAPE)})
    _, ended = ask("data/cfm", "--format", '{"name": "torchcfm", "heads": 4}')
    assert "the check of the declaration failed: its estimate of the data has" in ended


@pytest.mark.parametrize(
    ("format", "told"),
    [
        ("sitt", "unknown format 'sitt'; did you mean 'sit'"),
        ('{"name": "sit"', "is no JSON"),
        ('{"heads": 2}', "needs a name; add one of diffusers, dit, edm, sit, state_dict, torchcfm"),
        ('{"name": "sit", "head": 2}', "format sit: unknown option 'head'; did you mean 'heads'"),
        ("edm", "format edm: .*missing 1 required .* 'network'"),
        ('{"name": "torchcfm", "heads": "4"}', r"format torchcfm: heads must be int \| None, got '4'"),
        ('{"name": "dit", "heads": "x"}', r"format dit: heads must be int \| None, got 'x'"),
        ('{"name": "diffusers", "component": 3}', r"format diffusers: component must be str \| None, got 3"),
        ('{"name": "edm", "network": 3}', "format edm: network must be str, got 3"),
        ('{"name": "edm", "network": "a:B", "options": 3}', r"options must be dict\[str, Any\], got 3"),
        ('{"name": "edm", "network": "a:B", "null": 1}', "null must be bool, got 1"),
        (
            '{"name": "state_dict", "network": "a:B", "conditions": [1]}',
            r"conditions must be dict.*got \[1\]",
        ),
        (
            '{"name": "state_dict", "network": "a:B", "conditions": {"a": 1}}',
            r"conditions must .*got {'a': 1}",
        ),
    ],
)
def test_a_wrong_format_is_reported(here, ask, format, told):
    weights_of(here / "data/sit", of_sit())
    said, ended = ask("data/sit", "--format", format)
    assert re.search(told, ended)
    assert not said
