"""A chain whose points follow a vector and a label: every stage keeps the conditions of each sample."""

import json
import shutil

import numpy as np
import pytest
import torch
from jobs import job_in
from safetensors.torch import load_file

from fewstep import randomness
from fewstep.checkpoint import CONDITIONS, load_model, load_table, model_digest, save_model
from fewstep.command_line import main
from fewstep.conditions import Table
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN
from fewstep.shards import Shards
from fewstep.solvers import integrate
from stages import couple, distill, evaluate, nets, prepare, pretrain, reflow, search, trajectories
from stages.tracking.tracking import model_files

TRAIN = {"batch": 64, "learning_rate": 4e-3}
MLP = {"name": "mlp", "width": 32, "depth": 2}
SAMPLES = 600


def write_npz(file, **changes):
    """Points (600, 2) around `place` (600, 2), which is moved by the class, and spread by 0.1."""
    draw = np.random.default_rng(0)
    place, label = draw.uniform(-1, 1, (SAMPLES, 2)).astype("float32"), np.arange(SAMPLES) % 2
    x = place + 2 * label[:, None] - 1 + 0.1 * draw.standard_normal((SAMPLES, 2))
    texts = np.array([f"<at> {a:.1f} {b:.1f}" for a, b in place])
    arrays = {"x": x.astype("float32"), "y": label, "conditions/place": place, "texts": texts}
    np.savez(file, **{name: array for name, array in (arrays | changes).items() if array is not None})


def ran(root, stage, config, inputs, key=None):
    """Run a stage in this process on folders of `root`, and leave what the runner would."""
    name = stage.__name__.rpartition(".")[2]
    paths = {given: root / folder for given, folder in inputs.items()}
    manifests = {
        given: json.loads((path / "facts.json").read_text())
        for given, path in paths.items()
        if (path / "facts.json").exists()
    }
    out = root / (f"{name}-{key}" if key else name)
    out.mkdir()
    (root / "work" / out.name).mkdir(parents=True)
    changes = {"out": out, "scratch": root / "work" / out.name, "inputs": paths, "manifests": manifests}
    job = job_in(root, name, key, **changes)
    stage.run(stage.Config(**config), job)
    (out / "facts.json").write_text(json.dumps({"stage": name, "config": config, "facts": job.facts}))
    return job


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder in which all stages ran."""
    root = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_WORKERS", "1")
        patch.chdir(root)
        (root / "data").mkdir()
        write_npz(root / "data" / "points.npz")
        ran(root, prepare, {"source": "points.npz", "condition_rows": 100}, {})
        ran(root, nets, {"metric": {"steps": 2, "clusters": 2}, "monitor": {"steps": 1}}, {"data": "prepare"})
        method = {"name": "flow_matching", "label_dropout": 0.1}
        settings = {"method": method, "model": MLP, "conditional": True, "train": TRAIN | {"steps": 200}}
        ran(root, pretrain, settings, {"data": "prepare"}, "base")
        teacher = {"model": "pretrain-base", "data": "prepare"}
        ran(root, couple, {"model": "base", "pairs": 96, "held_out": 32, "nfe": 8}, teacher, "round1")
        settings = {"init": "base", "method": "reflow", "train": TRAIN | {"steps": 5}}
        settings |= {"straightness_noises": 8}
        inputs = {"pairs": "couple-round1", "init": "pretrain-base", "data": "prepare"}
        ran(root, reflow, settings, inputs, "round1")
        settings = {"teacher": "base", "method": "uniform", "budgets": [2], "guidance": 1.5}
        settings |= {"report_noises": 32, "batch": 32, "truth_steps": 8}
        ran(root, search, settings, dict.fromkeys(["model", "teacher"], "pretrain-base"), "base")
        inputs = {"model": "pretrain-base", "search": "search-base"}
        ran(root, trajectories, {"samples": 256, "held_out": 64}, inputs, "base")
        ran(root, distill, student("straighten"), student_inputs("trajectories-base"), "straight")
        settings = student({"name": "dmd", "fake_warmup": 1}) | {"train": TRAIN | {"steps": 2}}
        ran(root, distill, settings, student_inputs("prepare"), "boss")
        inputs = {"data": "prepare", "nets": "nets"}
        inputs |= {
            "model pretrain-base": "pretrain-base",
            "model straight": "distill-straight",
            "reference": "pretrain-base",
        }
        settings = {"samples": 50, "blocks": 2, "nfe": [2], "reference_nfe": 4}
        ran(root, evaluate, settings, inputs | {"search base": "search-base"})
    return root


def student(method):
    """Settings of distill."""
    found = {"method": method, "init": "base", "teacher": "base", "train_on": "trajectories/base"}
    return found | {"nfe": 2, "train": TRAIN | {"steps": 100}}


def student_inputs(train_on):
    models = {"init": "pretrain-base", "teacher": "pretrain-base", "search": "search-base"}
    return models | {"train_on": train_on, "data": "prepare"}


def test_shards_hold_the_rows_of_the_data_and_the_numbers_of_rows_of_the_model(chain):
    data = Shards(chain / "prepare" / "train").load()
    assert {name: tuple(values.shape[1:]) for name, values in data.items()} == {
        "data": (2,),
        "label": (),
        "place": (2,),
    }
    middle = data["place"] + 2 * data["label"][:, None] - 1
    assert (data["data"] - middle).std() == pytest.approx(0.1, abs=0.02)
    table = load_table(chain / "prepare")
    assert {name: values.shape for name, values in table.rows.items()} == {"label": (100,), "place": (100, 2)}
    for name in ("couple-round1", "trajectories-base"):
        shards = Shards(chain / name / "train")
        assert shards.fields["row"] == {"dtype": "int64", "shape": []}
        assert not {"label", "place"} & shards.fields.keys()
        assert shards.facts["conditions"] == table.digest


@pytest.mark.parametrize("model", ["pretrain-base", "reflow-round1", "distill-straight", "distill-boss"])
def test_every_model_carries_the_conditions_of_the_data(chain, model):
    loaded = load_model(chain / model)
    assert loaded.config.conditions == {"place": (2,)}
    assert loaded.config.classes == 2
    assert (chain / model / CONDITIONS).read_bytes() == (chain / "prepare" / CONDITIONS).read_bytes()
    (chain / model / "manifest.json").touch()
    assert chain / model / CONDITIONS in model_files(chain / model)  # what the registry gets


@pytest.mark.parametrize("model", ["distill-straight", "distill-boss"])
def test_a_student_is_sampled_from_its_own_directory_alone(chain, model, tmp_path):
    shutil.copytree(chain / model, tmp_path / "student")
    out = tmp_path / "samples.safetensors"
    with pytest.raises(SystemExit) as ended:
        main(["sample", str(tmp_path / "student"), "--samples", "200", "--out", str(out)])
    assert not ended.value.code
    made = load_file(out)
    middle = made["place"] + 2 * made["label"][:, None] - 1
    apart = (made["samples"] - middle).square().mean().sqrt()
    assert apart < (made["samples"] - middle.roll(1, 0)).square().mean().sqrt() / 2


@pytest.mark.parametrize(("model", "apart"), [("pretrain-base", 0.35), ("distill-straight", 0.45)])
def test_samples_follow_their_conditions(chain, model, apart):
    loaded = load_model(chain / model)
    flow = as_flow(loaded)
    grid = loaded.config.grid or load_model(chain / "distill-straight").config.grid
    ((noise, given),) = draws(
        "check", 0, range(500), shape=(2,), law=GAUSSIAN, conditions=loaded.conditions, batch=500
    )
    with torch.no_grad():
        made = integrate(flow, noise, grid, **given).x
    middle = given["place"] + 2 * given["label"][:, None] - 1
    assert (made - middle).square().mean().sqrt() < apart
    assert (made - middle.roll(1, 0)).square().mean().sqrt() > 1.2  # those of another sample


def test_conditions_of_samples_are_shown_in_the_report(chain):
    law, keys = load_model(chain / "distill-straight").conditions, randomness.keys_of(0, 0, 5)
    place = law.drawn("evaluate", keys)["place"]
    texts = [f"{a:.1f} {b:.1f}" for a, b in place.tolist()]
    assert law.texts("evaluate", keys) == [f"<at> {text}" for text in texts]
    page = (chain / "evaluate" / "report.html").read_text()
    assert "<at>" not in page
    assert all(f"<li>&lt;at&gt; {text}</li>" in page for text in texts)


def test_the_guided_student_samples_without_guidance(chain):
    assert load_model(chain / "distill-straight").config.baked_guidance == 1.5
    headline = json.loads((chain / "evaluate" / "metrics.json").read_text())["headline"]
    assert all(np.isfinite(row["fd_clf"]) for row in headline.values())


COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
CAPTIONS = ("{}", "a {} dot", "the {} point")
ANGLES = torch.arange(len(COLOURS)) * torch.pi / 3
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
GUIDANCE = 2.5


def write_captioned(file, count=1200):
    """Points around the place of a colour, so far that colours overlap, each with a caption that names it."""
    draw = np.random.default_rng(0)
    words = dict.fromkeys(" ".join(CAPTIONS).format(*COLOURS[:3]).split() + list(COLOURS))
    embedded = {word: draw.standard_normal(4).astype("float32") for word in words}
    colour = draw.integers(0, len(COLOURS), count)
    texts = [CAPTIONS[n % 3].format(COLOURS[c]) for n, c in enumerate(colour)]
    text, mask = np.zeros((count, 3, 4), "float32"), np.zeros((count, 3), "float32")
    for row, said in enumerate(texts):
        found = np.stack([embedded[word] for word in said.split()])
        text[row, : len(found)], mask[row, : len(found)] = found, 1
    x = CENTRES.numpy()[colour] + 0.35 * draw.standard_normal((count, 2))
    arrays = {"x": x.astype("float32"), "texts": np.array(texts)}
    nulls = {"null/text": np.zeros((3, 4), "float32"), "null/text_mask": np.ones(3, "float32")}
    np.savez(file, **arrays, **nulls, **{"conditions/text": text, "conditions/text_mask": mask})


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """The folder of a model of captions, and of its student of one step, which was taught guidance."""
    root = tmp_path_factory.mktemp("captioned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_WORKERS", "1")
        patch.chdir(root)
        (root / "data").mkdir()
        write_captioned(root / "data" / "dots.npz")
        ran(root, prepare, {"source": "dots.npz", "condition_rows": 300}, {})
        method = {"name": "flow_matching", "label_dropout": 0.1}
        settings = {"method": method, "model": MLP, "conditional": True, "train": TRAIN | {"steps": 400}}
        ran(root, pretrain, settings, {"data": "prepare"}, "base")
        settings = {"model": "base", "pairs": 1500, "held_out": 32, "nfe": 16, "guidance": GUIDANCE}
        ran(root, couple, settings, {"model": "pretrain-base", "data": "prepare"}, "round1")
        settings = {"teacher": "base", "method": "uniform", "budgets": [1], "guidance": GUIDANCE}
        settings |= {"report_noises": 32, "batch": 32, "truth_steps": 8}
        ran(root, search, settings, {"model": "pretrain-base", "teacher": "pretrain-base"}, "base")
        settings = {"method": "endpoint", "init": "base", "teacher": "base", "nfe": 1}
        settings |= {"train_on": "couple/round1", "train": TRAIN | {"steps": 300}}
        ran(root, distill, settings, student_inputs("couple-round1"), "one-step")
    return root


def named_colours(model, grid, guidance=1.0):
    """Return the share of samples that are nearest to the place of the colour that their caption names."""
    keys = randomness.keys_of(0, 0, 2000)
    ((noise, given),) = draws(
        "check", 0, range(2000), shape=(2,), law=GAUSSIAN, conditions=model.conditions, batch=2000
    )
    with torch.no_grad():
        made = integrate(as_flow(model, guidance=guidance), noise, grid, **given).x
    said = [text.split() for text in model.conditions.texts("check", keys)]
    wanted = torch.tensor([next(COLOURS.index(word) for word in words if word in COLOURS) for words in said])
    return float((torch.cdist(made, CENTRES).argmin(dim=1) == wanted).float().mean())


def test_a_guided_student_keeps_what_captions_say(captioned):
    teacher, student = (load_model(captioned / name) for name in ("pretrain-base", "distill-one-step"))
    guided, plain = (named_colours(teacher, uniform(16, solver="heun"), g) for g in (GUIDANCE, 1.0))
    own = named_colours(student, student.config.grid)
    assert student.config.baked_guidance == GUIDANCE
    assert plain < guided - 0.05
    assert own > guided - 0.02


def test_pairs_that_were_made_with_other_conditions_are_refused(chain, tmp_path):
    model = load_model(chain / "pretrain-base")
    table = model.conditions.table.pick(torch.arange(50))
    save_model(tmp_path / "other", build(model.config, seed=0, table=table))
    settings = {"init": "base", "method": "reflow", "train": TRAIN | {"steps": 5}}
    inputs = {"pairs": chain / "couple-round1", "init": tmp_path / "other"}
    inputs["data"] = chain / "prepare"
    with pytest.raises(UserError, match="couple-round1 was made with other conditions than the model has"):
        reflow.run(reflow.Config(**settings), job_in(tmp_path, "reflow", "round1", inputs=inputs))
    plain = ModelConfig(architecture=MLP, shape=(2,))
    save_model(tmp_path / "plain", build(plain, seed=0))
    assert model_digest(tmp_path / "plain") != model_digest(tmp_path / "other")
    inputs["init"] = tmp_path / "plain"
    with pytest.raises(UserError, match="was made with other conditions"):
        reflow.run(reflow.Config(**settings), job_in(tmp_path, "reflow", "round1", inputs=inputs))


def asked_for(chain, folder, conditional):
    settings = {"method": "flow_matching", "model": MLP, "train": TRAIN | {"steps": 1}}
    manifests = {"data": json.loads((chain / "prepare" / "facts.json").read_text())}
    job = job_in(folder, "pretrain", inputs={"data": chain / "prepare"}, manifests=manifests)
    pretrain.run(pretrain.Config(**settings, conditional=conditional), job)
    return load_model(job.out)


def test_a_model_may_be_given_some_of_the_conditions(chain, tmp_path):
    model = asked_for(chain, tmp_path / "a", ["place"])
    assert (model.config.classes, model.config.condition_names) == (0, ("place",))
    assert model.conditions.table.rows.keys() == {"place"}
    model = asked_for(chain, tmp_path / "b", ["label"])
    assert (model.config.condition_names, model.conditions.table) == (("label",), None)
    with pytest.raises(UserError, match=r"conditional: unknown condition 'plaice'; did you mean 'place'"):
        asked_for(chain, tmp_path / "c", ["plaice"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"conditions/place": np.zeros((5, 2)), "texts": None}, "conditions have 5 rows; 600 samples need"),
        ({"conditions/place": np.full((600, 2), np.nan)}, "conditions/place holds NaN or infinity"),
        ({"conditions/place": np.array(["a"] * 600)}, "conditions/place is <U1; save conditions as floats"),
        ({"conditions/noise": np.zeros((600, 2))}, "a condition can't be called 'noise'"),
        ({"conditions/label": np.zeros((600, 2))}, "class labels are the array y, not conditions/label"),
        ({"null/place": np.zeros(3)}, r"null value of condition place has shape \(3,\)"),
        ({"texts": np.zeros(600)}, "texts is float64 of shape"),
    ],
)
def test_arrays_that_are_no_conditions_are_refused(tmp_path, monkeypatch, changes, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_npz(tmp_path / "data" / "points.npz", **changes)
    with pytest.raises(UserError, match=told):
        prepare.run(prepare.Config(source="points.npz"), job_in(tmp_path, "prepare"))


def test_an_adopted_model_is_given_the_conditions_of_the_data(chain, tmp_path):
    facts = json.loads((chain / "prepare" / "facts.json").read_text())
    for name, width in (("mine", 2), ("other", 3)):
        config = ModelConfig(architecture=MLP, shape=(2,), conditions={"place": (width,)})
        table = Table(rows={"place": np.zeros((4, width), np.float32)})
        save_model(tmp_path / "data" / name, build(config, seed=0, table=table))
    settings = {"method": "flow_matching", "model": MLP, "train": TRAIN | {"steps": 1}}
    made = {"inputs": {"data": chain / "prepare"}, "manifests": {"data": facts}}

    def taken(name):
        job = job_in(tmp_path / name, "pretrain", **made)
        job.inputs["checkpoint"] = tmp_path / "data" / name
        pretrain.run(pretrain.Config(**settings, checkpoint=f"data/{name}"), job)
        return load_model(job.out)

    assert len(taken("mine").conditions.table) == 100
    with pytest.raises(UserError, match=r"takes the condition place of shape \(3,\), the data has \(2,\)"):
        taken("other")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"invert": 0.5}, "can't invert the data: the model has the conditions place"),
        ({"source": "pairs.npz"}, "holds no conditions, but the model has place"),
    ],
)
def test_pairs_whose_conditions_are_in_no_table_are_refused(chain, tmp_path, monkeypatch, asked, told):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    arrays = {"noise": np.zeros((40, 2)), "data": np.zeros((40, 2)), "label": np.zeros(40, np.int64)}
    np.savez(tmp_path / "data" / "pairs.npz", **arrays)
    inputs = {"model": chain / "pretrain-base", "data": chain / "prepare"}
    settings = {"model": "base", "pairs": 32, "held_out": 8, "nfe": 8} | asked
    with pytest.raises(UserError, match=told):
        couple.run(couple.Config(**settings), job_in(tmp_path, "couple", "round1", inputs=inputs))


def test_pairs_of_a_model_that_is_given_images_are_not_mirrored(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    table = Table(rows={"mask": np.zeros((4, 1, 8, 8), np.float32)})
    network = {"name": "unet", "width": 8, "multipliers": [1]}
    config = ModelConfig(architecture=network, shape=(1, 8, 8), conditions=table.shapes)
    save_model(tmp_path / "model", build(config, seed=0, table=table))
    settings = {"model": "base", "pairs": 32, "held_out": 8, "nfe": 8, "mirror": True}
    job = job_in(tmp_path, "couple", "round1", inputs={"model": tmp_path / "model"})
    with pytest.raises(
        UserError, match=r"couple\.round1\.mirror can't mirror pairs of a model that is given images"
    ):
        couple.run(couple.Config(**settings), job)
