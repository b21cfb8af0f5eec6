"""State dicts of DiT and SiT: fewstep's Euler is their own sampler, on a network built by another library."""

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import awake

from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.dit import Dit
from fewstep.foreign.formats.sit import Sit
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.models import dit as architecture
from fewstep.solvers import integrate

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers

SHAPE, CLASSES = (4, 8, 8), 5
LABEL, NULL = torch.tensor([0, 1, 3, 4]), torch.full((4,), CLASSES)
SIZES = {"width": 24, "depth": 2, "heads": 2, "patch": 2}
OF_A_BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
OF_EACH_BLOCK = {  # which their code has once
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
OF_THE_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}


def weights(**more):
    """Return a state dict as DiT and SiT write it, with random weights."""
    torch.manual_seed(0)
    network = architecture.Dit(**SIZES | {"variance": True} | more).build(SHAPE, CLASSES)
    return {name: tensor.contiguous() for name, tensor in awake(network).state_dict().items()}


def of_diffusers(state):
    """Return the network of diffusers with these weights, and the waves of time of DiT's own code."""
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=SIZES["heads"],
        attention_head_dim=SIZES["width"] // SIZES["heads"],
        in_channels=SHAPE[0],
        out_channels=2 * SHAPE[0],
        num_layers=SIZES["depth"],
        sample_size=SHAPE[1],
        patch_size=SIZES["patch"],
        num_embeds_ada_norm=CLASSES,
        norm_eps=1e-6,
    )
    renamed = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if name.startswith("blocks."):
            _, number, inner = stem.split(".", 2)
            place = f"transformer_blocks.{number}"
            if inner == "attn.qkv":
                for part, each in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{place}.attn1.to_{part}.{kind}"] = each
            else:
                renamed[f"{place}.{OF_A_BLOCK[inner]}.{kind}"] = tensor
        elif stem in OF_EACH_BLOCK:
            for number in range(SIZES["depth"]):
                renamed[f"transformer_blocks.{number}.{OF_EACH_BLOCK[stem]}.{kind}"] = tensor
        elif stem in OF_THE_ENDS:
            renamed[f"{OF_THE_ENDS[stem]}.{kind}"] = tensor
    network.load_state_dict(renamed)
    for block in network.transformer_blocks:  # diffusers divides exponents by 127, not 128
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    network.eval()
    return lambda x, t, label: network(x, timestep=t, class_labels=label, return_dict=False)[0][:, :4]


def adopted(folder, said, **declared):
    """Adopt weights that were written to a folder, and read the model directory that comes of it."""
    found = said.look(folder)
    save_model(folder / "adopted", assemble(config_of(found, SHAPE, declared), found))
    return load_model(folder / "adopted")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with weights, and their network in another library."""
    folder, state = tmp_path_factory.mktemp("dit"), weights()
    save_file(state, folder / "dit.safetensors")
    return folder, of_diffusers(state)


def assert_equal(found, expected):
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


@torch.no_grad()
def ours(model, noise, times, *, guidance=1.0, **conditions):
    flow = as_flow(model, guidance=guidance)
    inner = [min(max(t, flow.t_start), flow.t_end) for t in times]
    return integrate(flow, noise, Grid((*inner, 1.0), guidance=guidance), **conditions).x


@torch.no_grad()
def test_sixty_four_euler_steps_of_sit(place):
    folder, network = place
    model = adopted(folder, Sit(heads=2))
    assert (model.config.classes, model.config.guidable, model.config.shape) == (CLASSES, True, SHAPE)
    x = noise = torch.randn(4, *SHAPE)
    times = [step / 64 for step in range(64)]
    for now, then in pairwise([*times, 1.0]):
        x = x + (then - now) * network(x, torch.full((4,), now), LABEL)
    assert_equal(ours(model, noise, times, label=LABEL), x)


@torch.no_grad()
def test_ddim_of_dit_with_guidance_on_three_channels(place):
    """As DiT's own sampler guides, Song et al. 2021 (arXiv 2010.02502), eq. 12."""
    folder, network = place
    model = adopted(folder, Dit(heads=2))
    model.config.__dict__["guidance_channels"] = 3
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    indices = list(range(999, -1, -37))
    bars = [float(bar[index]) for index in indices]
    x = noise = torch.randn(4, *SHAPE)
    for index, now, then in zip(indices, bars, [*bars[1:], 1.0], strict=True):
        by_label, null = (network(x, torch.full((4,), float(index)), each) for each in (LABEL, NULL))
        guided = torch.cat([(null + 4 * (by_label - null))[:, :3], by_label[:, 3:]], dim=1)
        data = (x - (1 - now) ** 0.5 * guided) / now**0.5
        x = then**0.5 * data + (1 - then) ** 0.5 * guided
    times = [now**0.5 / (now**0.5 + (1 - now) ** 0.5) for now in bars]
    size = bars[0] ** 0.5 + (1 - bars[0]) ** 0.5  # they begin with noise, fewstep with b / (a + b) of it
    assert_equal(ours(model, noise / (size * (1 - times[0])), times, guidance=4.0, label=LABEL), x)


def test_a_model_directory_is_a_state_dict_of_theirs(place):
    folder, _ = place
    adopted(folder, Sit(heads=2))
    written, given = (load_file(folder / name) for name in ("adopted/model.safetensors", "dit.safetensors"))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in given.items())


def test_a_network_is_inferred_from_its_weights(tmp_path):
    save_file(weights(width=384, heads=6, depth=3, patch=4, variance=False), tmp_path / "dit.safetensors")
    found = Dit().look(tmp_path)
    assert found.architecture == {
        "name": "dit",
        "width": 384,
        "depth": 3,
        "heads": 6,
        "patch": 4,
        "variance": False,
    }
    described = found.described
    assert (described.channels, described.side, described.classes, described.labels) == (4, (8, 8), 5, 6)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda w: w, "nothing says how many heads a transformer of width 24 has; set heads beside the name"),
        (lambda w: {n: x for n, x in w.items() if n != "pos_embed"}, "has no pos_embed of 3 dimensions"),
        (lambda w: w | {"pos_embed": w["pos_embed"][0]}, "has no pos_embed of 3 dimensions, which"),
        (lambda w: {f"ema.{n}": x for n, x in w.items()}, "save the state dict .* under `ema`"),
    ],
)
def test_other_weights_are_refused(tmp_path, spoil, told):
    save_file(spoil(weights()), tmp_path / "dit.safetensors")
    with pytest.raises(UserError, match=told):
        Dit().look(tmp_path)


def test_a_missing_block_is_reported(tmp_path):
    state = weights()
    save_file({n: x for n, x in state.items() if n != "blocks.0.mlp.fc1.bias"}, tmp_path / "dit.safetensors")
    with pytest.raises(UserError, match=r"lacks blocks\.0\.mlp\.fc1\.bias of the network"):
        adopted(tmp_path, Sit(heads=2))
