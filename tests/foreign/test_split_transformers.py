"""Transformers of diffusers whose first blocks see the start of a step, and the others its end."""

from functools import partial

import pytest
import torch
from foreign.adopted import adopted, flow_of, moved

from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.timing import with_second_time, with_slow_times
from fewstep.training.engine import Engine


@pytest.mark.parametrize("recompute", [False, True])
def test_the_blocks_of_a_transformer_are_split_between_the_two_times(recompute, tmp_path):
    model = adopted("DiTTransformer2DModel")
    blocks = model.config.architecture["config"]["num_layers"]
    assert blocks > 1
    split = with_second_time(model, seed=3, split_after=1)
    assert split.state_dict().keys() == model.state_dict().keys()
    (plain, x, t, until), (u, *_) = flow_of(model), flow_of(split)
    with torch.no_grad():
        assert torch.equal(u(x, t), plain(x, t))
        assert torch.equal(u(x, t, t), plain(x, t))
        save_model(tmp_path, split)
        assert torch.equal(flow_of(load_model(tmp_path))[0](x, t, until), u(x, t, until))
    if recompute:
        Engine(recompute=True).prepare(split)
    embedders, given = (
        [block.norm1.emb.time_proj.plain for block in split.network.network.transformer_blocks],
        [],
    )
    for embedder in embedders:
        embedder.register_forward_pre_hook(lambda _, times: given.append(times[0]))
    u(x, t, until).square().sum().backward()
    first, *others = given[: blocks + 1]  # those of the blocks, then that of the last layer
    of_path = 1 - t if model.config.time == "1-t" else t
    torch.testing.assert_close(first, model.config.time_scale * of_path)
    ends = model.config.time_scale * (1 - until if model.config.time == "1-t" else until)
    assert all(torch.equal(times, others[0]) for times in others)
    torch.testing.assert_close(others[0], ends)
    again = given[blocks + 1 :]
    assert bool(again) == recompute
    assert all(torch.equal(times, first) or torch.equal(times, others[0]) for times in again)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    "name", ["SD3Transformer2DModel", "FluxTransformer2DModel", "PixArtTransformer2DModel"]
)
def test_blocks_that_share_an_embedding_are_given_that_of_their_own_time(name, slow, tmp_path):
    model = moved(adopted(name))
    split = with_second_time(model, seed=3, split_after=1)
    assert split.state_dict().keys() == model.state_dict().keys()
    if slow:
        model, split = with_slow_times(model, seed=1), with_slow_times(split, seed=1)
    (plain, x, t, until), (u, *_) = flow_of(model), flow_of(split)
    with torch.no_grad():
        torch.testing.assert_close(u(x, t), plain(x, t))
        assert not torch.allclose(u(x, t, until), plain(x, t), atol=1e-3)
        save_model(tmp_path, split)
        assert torch.equal(flow_of(load_model(tmp_path))[0](x, t, until), u(x, t, until))
        of_t, of_until = (seen_by_blocks(model, plain, x, time) for time in (t, until))
        torch.testing.assert_close(seen_by_blocks(split, u, x, t, until), {0: of_t[0], 1: of_until[1]})
        layer_alone = flow_of(with_second_time(adopted(name), seed=3, split_after=2))[0]
        other = flow_of(adopted(name))[0]
        assert not torch.allclose(layer_alone(x, t, until), other(x, t), atol=1e-4)
        torch.testing.assert_close(layer_alone(x, t), other(x, t))
    gradients = []
    for engine in (Engine(), Engine(recompute=True)):
        engine.prepare(split)
        u(x, t, until).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in split.parameters() if weight.grad is not None])
        split.zero_grad()
    torch.testing.assert_close(*gradients)


def seen_by_blocks(model, u, *asked):
    """Return what each block is given of the time, by its number."""
    network, seen = model.network.network, {}
    blocks = [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]

    def note(number, block, args, given):
        seen[number] = given["temb" if "temb" in given else "timestep"]

    hooks = [
        block.register_forward_pre_hook(partial(note, number), with_kwargs=True)
        for number, block in enumerate(blocks)
    ]
    u(*asked)
    for hook in hooks:
        hook.remove()
    return seen


def test_networks_without_such_blocks_are_not_split():
    told = r"split_after is for DiTTransformer2DModel, .*, and UNet2DModel is none of them: set it to null"
    with pytest.raises(UserError, match=told):
        with_second_time(adopted("UNet2DModel"), seed=0, split_after=1)
    with pytest.raises(UserError, match=r"FluxTransformer2DModel: split_after 3 of 2 blocks; set it from 1"):
        with_second_time(adopted("FluxTransformer2DModel"), seed=0, split_after=3)
    with pytest.raises(
        UserError, match=r"DiTTransformer2DModel: split_after 9 of \d blocks; set it from 1 to"
    ):
        with_second_time(adopted("DiTTransformer2DModel"), seed=0, split_after=9)
