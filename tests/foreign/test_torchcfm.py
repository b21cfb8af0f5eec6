"""State dicts of torchcfm's U-Net: fewstep's Euler ends where it does with torchcfm's own network.

`torchcfm.npz` holds, for each of CASES, where `torchdiffeq.odeint(network, noise, times, method="euler")` of
torchdiffeq 0.2.5 ends with the UNetModelWrapper of torchcfm 1.0.7 as network, whose weights and noise are
those of this file, at 64 equal steps in float32.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.torchcfm import Torchcfm
from fewstep.grids import uniform
from fewstep.models.adm import Adm
from fewstep.solvers import integrate

SHAPE, CLASSES = (3, 8, 8), 5
LABEL = torch.tensor([0, 4])
COMMON = {"width": 32, "scale_shift": False, "resample_blocks": False, "variance": False, "labels": 0}
CASES = {
    # num_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions="4", num_heads=4
    "plain": (
        Torchcfm(heads=4),
        COMMON | {"multipliers": [1, 2], "blocks": 1, "attention": [1], "heads": 4, "heads_first": True},
    ),
    # num_channels=32, num_res_blocks=2, channel_mult=(2, 1, 1), attention_resolutions="8,2", num_classes=5
    # num_head_channels=16, class_cond, use_scale_shift_norm, resblock_updown, use_new_attention_order and
    # learn_sigma are True; the first half of its output is the velocity
    "all": (
        Torchcfm(head_channels=16, heads_first=False),
        {
            "width": 32,
            "multipliers": [2, 1, 1],
            "blocks": 2,
            "attention": [0, 2],
            "labels": CLASSES,
            "head_channels": 16,
            "heads_first": False,
            "scale_shift": True,
            "resample_blocks": True,
            "variance": True,
        },
    ),
}
GOLDEN = Path(__file__).with_name("torchcfm.npz")


def spread(shape, place):
    """Return numbers between -1 and 1 that any machine makes alike."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (2 * ((numbers * 0.7548776662466927 + place * 0.5698402909980532) % 1) - 1).float().view(shape)


def weights(settings):
    """Return a state dict as torchcfm writes it."""
    network = Adm(**settings).build(SHAPE, settings["labels"])
    return {
        name: spread(tensor.shape, place) * (1 / tensor[0].numel() ** 0.5 if tensor.dim() > 1 else 0.5)
        for place, (name, tensor) in enumerate(network.state_dict().items())
    }


def noise():
    return 3**0.5 * spread((2, *SHAPE), 0.5)


def written(folder, case):
    save_file(weights(CASES[case][1]), folder / "unet.safetensors")
    return CASES[case][0].look(folder)


def adopted(folder, found, **more):
    """Read the model directory that comes of what was found."""
    save_model(folder / "adopted", assemble(config_of(found, SHAPE, {}, **more), found))
    return load_model(folder / "adopted")


@pytest.mark.parametrize("case", CASES)
def test_sixty_four_euler_steps(tmp_path, case):
    model = adopted(tmp_path, written(tmp_path, case))
    label = {"label": LABEL} if model.config.classes else {}
    with torch.no_grad():
        found = integrate(as_flow(model), noise(), uniform(64), **label).x
    expected = torch.from_numpy(np.load(GOLDEN)[case])
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_network_is_inferred_from_its_weights(tmp_path, case):
    found = written(tmp_path, case)
    assert found.architecture == CASES[case][1] | {"name": "adm"}
    assert (found.described.channels, found.described.side) == (3, None)
    assert (found.described.sides, found.described.labels) == ({"plain": (2, 0), "all": (4, 5)}[case])
    declared = {"prediction": "velocity", "path": "linear", "time": "t", "time_scale": 1.0}
    assert found.declared == declared


def test_a_model_directory_is_a_state_dict_of_theirs(tmp_path):
    adopted(tmp_path, written(tmp_path, "all"))
    found, given = (load_file(tmp_path / name) for name in ("adopted/model.safetensors", "unet.safetensors"))
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_the_last_label_is_the_null_condition_if_that_is_said(tmp_path):
    found = written(tmp_path, "all")
    every, guidable = adopted(tmp_path, found), adopted(tmp_path, found, classes=CLASSES - 1)
    assert (every.config.guidable, guidable.config.guidable) == (False, True)
    x, t = noise(), torch.tensor([0.3, 0.6])
    with torch.no_grad():
        assert torch.equal(guidable(x, t), every(x, t, label=torch.full((2,), CLASSES - 1)))
        with pytest.raises(UserError, match="classes without a null condition: give each sample a label"):
            every(x, t)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda w: {f"module.{n}": x for n, x in w.items()},
            "has no time_embed.0.weight .* remove the prefix",
        ),
        (
            lambda w: {n: x for n, x in w.items() if not n.startswith("output_blocks.1.")},
            "of output_blocks there are weights of 8, not of as many in each of 3 levels",
        ),
        (
            lambda w: {n: x for n, x in w.items() if n != "out.2.bias"},
            r"lacks out\.2\.bias of the network",
        ),
    ],
    ids=["prefix", "block", "weight"],
)
def test_other_weights_are_refused(tmp_path, spoil, told):
    said, settings = CASES["all"]
    save_file(spoil(weights(settings)), tmp_path / "unet.safetensors")
    with pytest.raises(UserError, match=told):
        adopted(tmp_path, said.look(tmp_path))


def test_heads_must_be_declared_once(tmp_path):
    written(tmp_path, "plain")
    with pytest.raises(UserError, match=r"no weight says how many heads .* set heads or head_channels"):
        Torchcfm().look(tmp_path)
    with pytest.raises(UserError, match="heads and head_channels say the same; set one of them"):
        Torchcfm(heads=1, head_channels=64)
    with pytest.raises(UserError, match="torchcfm: heads must be 1 or more, got 0"):
        Torchcfm(heads=0)
    with pytest.raises(UserError, match="64 channels can't be parted by heads, 5; take a divisor"):
        adopted(tmp_path, Torchcfm(heads=5).look(tmp_path))


@pytest.mark.parametrize(
    ("settings", "shape", "told"),
    [
        ({"width": 16}, SHAPE, "width and channels must be multiples of 32, got 16"),
        ({"multipliers": (1, 1.5)}, SHAPE, "width and channels must be multiples of 32, got 48"),
        (
            {"multipliers": (1, 1)},
            SHAPE,
            "at least one level must have more than 32 channels",
        ),
        ({"blocks": 0}, SHAPE, "adm: blocks must be 1 or more, got 0"),
        ({"head_channels": 0}, SHAPE, "adm: head_channels must be 1 or more, got 0"),
        ({"multipliers": ()}, SHAPE, "multipliers must be one or more numbers above 0"),
        ({"attention": (2,)}, SHAPE, "attention at level 2; there are levels 0 to 1"),
        ({}, (3, 8), "needs images"),
        ({}, (3, 8, 9), "the sides of 8x9 must be multiples of 2, with 2 levels"),
        ({"labels": 3}, SHAPE, "has 3 rows, and there are 0 classes"),
    ],
)
def test_settings_of_the_network_that_can_not_be_are_reported(settings, shape, told):
    with pytest.raises(UserError, match=told):
        Adm(**settings).build(shape, 0)
