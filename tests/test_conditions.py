"""Conditions with a name: declared, drawn from a table, guided away from, refused where they do not fit."""

import ast
import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from workspace import CHECKOUT

from fewstep import randomness
from fewstep.checkpoint import CONDITIONS, CONFIG, load_model, model_digest, save_model
from fewstep.conditions import TAKEN, Conditions, Table
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import Model, ModelConfig, build
from fewstep.models.mlp import Mlp
from fewstep.noises import GAUSSIAN
from fewstep.searching.call import search
from fewstep.training.method import conditions_of

SHAPES = {"text": (3, 2), "text_mask": (3,), "pooled": (4,), "mask": (2, 8, 8)}
MLP = {"name": "mlp", "width": 8, "depth": 1}
FOR_IMAGES = [
    {"name": "unet", "width": 8, "multipliers": [1]},
    {"name": "dit", "width": 8, "depth": 1},
    {"name": "adm", "multipliers": [2]},
]


def table_of(count=10, shapes=SHAPES, **more):
    draw = np.random.default_rng(0)
    rows = {name: draw.standard_normal((count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    rows |= {"text_mask": (rows["text_mask"] > 0).astype(np.float32)} if "text_mask" in rows else {}
    return Table(rows=rows, **more)


def model_of(shapes=SHAPES, *, architecture=MLP, shape=(1, 8, 8), table=None, **config):
    config = ModelConfig(architecture=architecture, shape=shape, conditions=shapes, **config)
    model = build(config, seed=0, table=table or table_of(shapes=shapes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def given(count=4, shapes=SHAPES):
    return table_of(shapes=shapes).take(torch.arange(count))


class AddsText(torch.nn.Module):
    """Its velocity is what it is given as text, so guidance has a closed form."""

    def forward(self, x, t, text):
        return text


@pytest.mark.parametrize("architecture", [MLP, *FOR_IMAGES], ids=lambda options: options["name"])
def test_own_networks_see_each_condition_of_the_sample_alone(architecture):
    model = model_of(architecture=architecture, classes=2)
    draw = torch.Generator().manual_seed(2)
    x, t = torch.randn(4, 1, 8, 8, generator=draw), torch.rand(4, generator=draw)
    conditions = {"label": torch.tensor([0, 1, 2, 0])} | given()
    whole = model(x, t, **conditions)
    rounding = {"rtol": 0.0, "atol": 1e-5 * float(whole.detach().abs().max())}
    few = model(x[:2], t[:2], **{name: values[:2] for name, values in conditions.items()})
    torch.testing.assert_close(few, whole[:2], **rounding)
    for name in ("text", "pooled", "mask"):
        other = model(x, t, **conditions | {name: conditions[name] + 1})
        assert not torch.allclose(other, whole, atol=1e-4)
    hidden = conditions["text_mask"][:, :, None] == 0
    assert hidden.any()
    unseen = torch.where(hidden, 9.0, conditions["text"])
    torch.testing.assert_close(model(x, t, **conditions | {"text": unseen}), whole, **rounding)


@pytest.mark.parametrize("name", ["type", "keys_", "train", "forward"])
def test_own_networks_take_conditions_called_as_a_part_of_a_module_is(name):
    model = model_of({name: (2,)}, shape=(2,))
    assert model(torch.randn(4, 2), torch.rand(4), **{name: torch.randn(4, 2)}).shape == (4, 2)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_a_condition_belongs_to_the_number_of_its_sample(batch):
    table = table_of(shapes={"pooled": (4,)})
    law = Conditions((), table.shapes, table)
    parts = [
        more
        for _, more in draws("couple", 3, range(5, 25), shape=(2,), law=GAUSSIAN, conditions=law, batch=batch)
    ]
    keys = randomness.keys_of(3, 5, 25)
    kept = law.chosen("couple", keys)
    often = law.chosen("couple", randomness.keys_of(3, 0, 1000))["row"].bincount()
    assert (often - 100).abs().max() <= 2
    assert torch.equal(torch.cat([part["pooled"] for part in parts]), table.take(kept["row"])["pooled"])
    assert law.given({"noise": keys, **kept}).keys() == {"noise", "pooled"}
    assert not torch.equal(law.chosen("evaluate", keys)["row"], kept["row"])


def test_a_label_goes_with_its_row_where_the_table_has_it():
    table = table_of(shapes={"pooled": (4,)})
    label = torch.arange(10) % 3
    law = Conditions((0.4, 0.3, 0.3), table.shapes, table.pick(torch.arange(10), label=label))
    drawn = law.drawn("x", randomness.keys_of(0, 0, 20))
    row = (drawn["pooled"][:, None] == torch.from_numpy(table.rows["pooled"])).all(-1).int().argmax(1)
    assert torch.equal(drawn["label"], label[row])
    assert torch.equal(law.labels("x", randomness.keys_of(0, 0, 20)), drawn["label"])
    assert Conditions((), table.shapes, table).labels("x", randomness.keys_of(0, 0, 20)) is None
    without = Conditions((0.4, 0.3, 0.3), table.shapes, table).drawn("x", randomness.keys_of(0, 0, 20))
    assert torch.equal(
        without["label"], randomness.labels("x", randomness.keys_of(0, 0, 20), (0.4, 0.3, 0.3))
    )


@pytest.mark.parametrize(
    ("said", "away_from"),
    [
        ({}, 0.0),
        ({"null": {"text": np.full(2, 0.5, np.float32)}}, 0.5),
        ({"null": {"text": np.zeros(2)}, "negative": {"text": np.full(2, -1.0)}}, -1.0),
    ],
)
def test_guidance_leads_away_from_the_negative_or_else_the_null(said, away_from):
    shapes = {"text": (2,)}
    config = ModelConfig(architecture={}, shape=(2,), conditions=shapes)
    model = Model(config, AddsText(), table_of(shapes=shapes, **said))
    text = given(shapes=shapes)["text"]
    velocity = as_flow(model, guidance=3.0)(torch.randn(4, 2), 0.3, text=text)
    torch.testing.assert_close(velocity, away_from + 3 * (text - away_from))
    null = said.get("null", {}).get("text", np.zeros(2))
    assert model.null({"text": text})["text"].tolist() == [null.tolist()] * 4


def test_all_conditions_are_dropped_together_for_guidance():
    shapes = {"text": (2,), "pooled": (4,)}
    table = table_of(shapes=shapes, null={"pooled": np.full(4, 7, np.float32)})
    model = model_of(shapes, shape=(2,), classes=2, table=table)
    batch = {"label": torch.tensor([0, 1] * 50)} | {
        name: values[:1].expand(100, -1) for name, values in given(1, shapes).items()
    }
    keys = randomness.keys_of(0, 0, 100)
    dropped = FlowMatching(label_dropout=0.3)._conditions(model, batch, keys)
    hidden = dropped["label"] == 2
    assert 15 < hidden.sum() < 45
    assert (dropped["text"][hidden] == 0).all()
    assert (dropped["pooled"][hidden] == 7).all()
    assert all(torch.equal(dropped[name][~hidden], batch[name][~hidden]) for name in batch)


def test_a_model_directory_carries_the_table(tmp_path):
    table = table_of(null={"pooled": np.ones(4, np.float32)}, texts=("a cat",) * 10)
    save_model(tmp_path / "a", model_of(table=table))
    loaded = load_model(tmp_path / "a")
    assert loaded.conditions.facts() == {"conditions": table.digest}
    assert loaded.conditions.table.texts == table.texts
    assert loaded.config.conditions == SHAPES
    save_model(tmp_path / "b", loaded)
    for name in (CONDITIONS, CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    save_model(tmp_path / "c", model_of())
    assert model_digest(tmp_path / "a") != model_digest(tmp_path / "c")
    (tmp_path / "c" / CONDITIONS).unlink()
    with pytest.raises(UserError, match=r"is no model directory: it has no conditions\.safetensors"):
        load_model(tmp_path / "c")
    (tmp_path / "a" / CONDITIONS).write_bytes(b"other bytes")
    with pytest.raises(UserError, match="holds no conditions"):
        load_model(tmp_path / "a")


def test_a_table_stays_in_its_file_until_rows_are_asked_for(tmp_path):
    table, other = table_of(), Table(rows={n: 2 * rows for n, rows in table_of().rows.items()})
    table.save(tmp_path / "table")
    other.save(tmp_path / "other")
    loaded = Table.load(tmp_path / "table")
    with (tmp_path / "table").open("r+b") as file:
        file.write((tmp_path / "other").read_bytes())
    assert loaded.digest == other.digest


@pytest.mark.parametrize("network", FOR_IMAGES, ids=lambda options: options["name"])
def test_images_keep_their_places_whatever_the_order_they_are_declared_and_given_in(tmp_path, network):
    shapes = {"second": (1, 8, 8), "first": (2, 8, 8)}
    model, given_ones = model_of(shapes, architecture=network), given(shapes=shapes)
    save_model(tmp_path, model)
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    other_way = dict(reversed(given_ones.items()))
    torch.testing.assert_close(load_model(tmp_path)(x, t, **other_way), model(x, t, **given_ones))


def test_a_model_without_them_has_the_files_it_always_had(tmp_path):
    save_model(tmp_path, build(ModelConfig(architecture=MLP, shape=(2,), classes=2), seed=0))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert "conditions" not in (tmp_path / CONFIG).read_text()


def test_copies_of_a_model_share_its_table_and_workers_get_it_as_bytes():
    model = model_of()
    assert copy.deepcopy(model).conditions.table is model.conditions.table
    assert pickle.loads(pickle.dumps(model.conditions)).table.digest == model.conditions.table.digest


def test_half_precision_rows_are_computed_with_in_float32():
    table = Table(rows={"text": np.ones((2, 3), np.float16)})
    assert table.take(torch.tensor([1]))["text"].dtype == torch.float32
    model = model_of({"text": (3,)}, shape=(2,), table=table).to(torch.bfloat16)
    assert as_flow(model)(torch.randn(2, 2), 0.5, text=torch.ones(2, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ({}, r"must give the model its condition text, of shape \(2,\); given: none"),
        (
            {"text": torch.zeros(4, 3)},
            r"gives the condition text in shape \(3,\), but the model takes \(2,\)",
        ),
    ],
)
def test_a_condition_that_is_missing_or_of_another_shape_is_refused(conditions, told):
    model = model_of({"text": (2,)}, shape=(2,))
    with pytest.raises(UserError, match=told):
        as_flow(model)(torch.randn(4, 2), 0.5, **conditions)
    with pytest.raises(UserError, match=told):
        conditions_of(model.config, conditions)
    with pytest.raises(UserError, match=told):
        search(model, torch.randn(4, 2), budgets=[2], method="uniform", conditions=conditions)


def test_rows_of_another_table_are_refused():
    table = table_of()
    law, other = (Conditions((), SHAPES, t) for t in (table, table_of(null={"pooled": np.ones(4)})))
    law.must_be_of(other_facts := law.facts(), where="artifacts/couple/round1")
    with pytest.raises(UserError, match="artifacts/couple/round1 was made with other conditions"):
        other.must_be_of(other_facts, where="artifacts/couple/round1")
    with pytest.raises(UserError, match="no table of its conditions"):
        Conditions((), SHAPES).drawn("x", randomness.keys_of(0, 0, 2))


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"noise": (2,)}, "can't be called 'noise'"),
        ({"my text": (2,)}, "can't be called 'my text'"),
        ({"class": (2,)}, "can't be called 'class'"),
        ({"flow": (2,)}, "can't be called 'flow'"),
        ({"logits": (2,)}, "can't be called 'logits'"),
        ({"last_velocity": (3,)}, "can't be called 'last_velocity'"),
        ({"last_velocity": (2,), "text": (2,)}, "can't be called 'last_velocity'"),
        ({"text": (2.5,)}, r"condition text has shape \(2\.5,\)"),
        ({"text": ()}, r"condition text has shape \(\)"),
        ({"text": (2, 0)}, r"condition text has shape \(2, 0\)"),
        ({"text": (5, 2), "text_mask": (4,)}, r"text has 5 tokens, so its mask must have \(5,\)"),
    ],
)
def test_a_declaration_that_can_not_be_is_refused(shapes, told):
    with pytest.raises(UserError, match=told):
        ModelConfig(architecture={}, shape=(2,), conditions=shapes)


def test_no_condition_is_called_as_a_function_that_passes_it_on_calls_something_else():
    for file in (file for folder in ("fewstep", "stages") for file in (CHECKOUT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg and node.args.kwarg.arg == "conditions":
                named = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                assert named <= TAKEN, f"{file}: {node.name}"


def test_a_table_that_does_not_fit_is_refused():
    rows = {"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}
    with pytest.raises(UserError, match=r"as many rows each, got \{'a': 3, 'b': 4\}"):
        Table(rows=rows)
    with pytest.raises(UserError, match=r"null value of condition a has shape \(3,\), its rows have \(2,\)"):
        Table(rows={"a": rows["a"]}, null={"a": np.zeros(3)})
    with pytest.raises(UserError, match="can't be called 'last_velocity'"):
        Table(rows={"last_velocity": rows["a"]})
    with pytest.raises(UserError, match="must have a row"):
        Table(rows={"a": rows["a"][:0]})
    masked = {"a": np.zeros((3, 5, 2)), "a_mask": np.ones((3, 5))}
    with pytest.raises(UserError, match="negative value of condition a needs negative/a_mask: else no token"):
        Table(rows=masked, negative={"a": np.zeros((5, 2))})
    with pytest.raises(UserError, match=r"takes the conditions \{'a': \(2,\)\}, but its table has"):
        model_of({"a": (2,)}, table=table_of(shapes={"a": (3,)}))


def test_an_image_of_another_size_and_an_architecture_without_conditions_are_refused(monkeypatch):
    for network in FOR_IMAGES:
        with pytest.raises(UserError, match=f"{network['name']}: condition mask is an image of 4x8, the sam"):
            model_of({"mask": (1, 4, 8)}, architecture=network)
    monkeypatch.setattr(Mlp, "build", lambda self, shape, classes: AddsText())
    with pytest.raises(UserError, match="can't be given conditions: its build does not take it"):
        model_of({"text": (2,)})


def test_an_error_in_a_network_that_speaks_of_conditions_is_not_taken_for_another(monkeypatch):
    def build(self, shape, classes, **features):
        raise TypeError("conditions is no list")

    monkeypatch.setattr(Mlp, "build", build)
    with pytest.raises(TypeError, match="conditions is no list"):
        model_of({"text": (2,)})


def test_guidance_needs_a_condition():
    config = ModelConfig(architecture={}, shape=(2,))
    with pytest.raises(UserError, match="has no classes and no other conditions"):
        config.guidance_shown(2.0)
    assert replace(config, conditions={"text": (2,)}).guidance_shown(2.0) == 2.0
