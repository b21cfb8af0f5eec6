"""Other data and other settings through the whole chain, by changing params.yaml alone."""

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from chain.checkout import Checkout
from chain.tiny import train
from foreign import tiny_networks, tiny_texts

from fewstep.checkpoint import load_config, load_model
from fewstep.grids import reach
from fewstep.metrics.nets import load_nets

SEARCH_OF_A_STUDENT = {
    "teacher": "base",
    "method": {"name": "coordinate_descent", "noises": 64},
    "budgets": [4],
    "guidance": 1.5,
    "report_noises": 32,
}


def little(checkout: Checkout) -> None:
    """Let there be less work still: nothing here looks at how well it ends."""
    search = {"method": {"noises": 16}, "report_noises": 16}
    checkout.set(
        nets={"metric": {"steps": 8}, "monitor": {"steps": 4}},
        couple={"round1": {"pairs": 192, "held_out": 32}},
        reflow={"round1": {"train": train(4, 1e-3)}},
        search={"base": search, "round1": search},
        trajectories={"base": {"samples": 96, "held_out": 32}},
        evaluate={"samples": 50},
    )


def squares(checkout: Checkout, side: int) -> None:
    """Write colour images, without labels, to an .npz file."""
    random = np.random.default_rng(0)
    corner = random.integers(0, 7, size=(160, 2))
    images = random.integers(0, 40, size=(160, side, side, 3), dtype=np.uint8)
    for image, (row, column) in zip(images, corner, strict=True):
        image[row : row + 5, column : column + 5] += np.uint8([200, 90 + 10 * row, 20])
    np.savez(checkout / "data/squares.npz", x=images)


def own_images(checkout: Checkout) -> None:
    """Give the chain images of 12x12, and to its pairs a model of a quarter of the weights, all new."""
    squares(checkout, 12)
    small = {"name": "unet", "width": 4, "multipliers": [1, 2]}
    checkout.set(
        prepare={"source": "data/squares.npz"},
        pretrain={"base": {"train": train(40, 4e-3)}},
        reflow={"round1": {"model": small}},
    )


def in_latents(checkout: Checkout) -> None:
    """Images of 16x16 behind an autoencoder, and one student of what is learnt of their latents."""
    tiny_networks.autoencoder().save_pretrained(checkout / "data/vae")
    squares(checkout, 16)
    checkout.set(prepare={"source": "data/squares.npz", "codec": {"folder": "data/vae"}})
    params = checkout.params()
    params |= {"couple": {}, "reflow": {}}
    del params["search"]["round1"]
    params["distill"] = {"boss-4": params["distill"]["boss-4"]}
    checkout.write_params(params)


def conditional_toy(checkout: Checkout) -> None:
    """Points with classes, two teachers of them and guided students of both, one of which has jittered
    timesteps, so that it is searched itself; no reflow."""
    checkout.set(
        prepare={"source": "eight_gaussians"},
        couple={"round1": {"guidance": 1.5, "model": "narrow"}},
        search={"base": {"guidance": 1.5}, "boss-4": SEARCH_OF_A_STUDENT},
        trajectories={"base": {"keep": "all"}},
        distill={
            "one-step": {"init": "narrow", "teacher": "narrow"},
            "boss-4": {"method": {"name": "straighten", "jitter": 0.3}},
            "finished-4": {"method": {"name": "dmd", "guidance": 1.5}},
        },
    )
    params = checkout.params()
    learnt = {"conditional": True, "method": {"name": "flow_matching", "label_dropout": 0.2}}
    learnt |= {"model": {"name": "mlp", "width": 32}}
    first = params["pretrain"]["base"] | learnt
    second = first | {"prediction": "v", "model": {"name": "mlp", "width": 24}}
    params |= {"reflow": {}, "pretrain": {"base": first, "narrow": second}}
    params["search"]["narrow"] = params["search"].pop("round1") | {"teacher": "narrow", "guidance": 1.5}
    params["evaluate"]["reference"] = "narrow"
    checkout.write_params(params)


def teacher_alone(checkout: Checkout) -> None:
    """A pipeline of diffusers and prompts in the place of data and of pretraining, and one student that goes
    back into it; its weights are random, so it is not what it is declared to be."""
    said = {"folder": "data/tiny", "prompts": {"file": "data/prompts.txt", "tokens": 16}}
    tiny_texts.stable_diffusion_3().save_pretrained(checkout / said["folder"])
    (checkout / "data/prompts.txt").write_text("a cat\na dog on a mat\nthe sun\n")
    params = checkout.params()
    params["export"] = {"boss-4": {"formats": ["diffusers", {"name": "pipeline", "folder": "data/tiny"}]}}
    del params["prepare"]["source"]
    params["prepare"]["teacher"] = said | {"samples": 160, "latents": True, "nfe": 8}
    params |= {"pretrain": {}, "adopt": {"tiny": said | {"gates": "warn"}}, "couple": {}, "reflow": {}}
    params["search"] = {"tiny": params["search"]["base"] | {"teacher": "tiny"}}
    params["trajectories"] = {"tiny": params["trajectories"]["base"]}
    learnt = {"teacher": "tiny", "init": "tiny", "train_on": "trajectories/tiny"}
    params["distill"] = {"boss-4": params["distill"]["boss-4"] | learnt}
    params["evaluate"]["reference"] = "tiny"
    checkout.write_params(params)


VARIANTS = (own_images, in_latents, conditional_toy, teacher_alone)


@pytest.fixture(scope="module")
def variants(finished, tmp_path_factory):
    """The checkouts in which the variants ran, at the same time, and what was said."""
    place = tmp_path_factory.mktemp("variants")

    checkouts = {variant: finished.copy(place / variant.__name__) for variant in VARIANTS}
    for variant, checkout in checkouts.items():  # not in threads: diffusers can't be imported in two
        little(checkout)
        variant(checkout)
        if variant in (in_latents, teacher_alone):
            checkout.libraries = "diffusers"

    def run(checkout) -> tuple[Checkout, str]:
        return checkout, checkout.repro(ok=None).said

    with ThreadPoolExecutor() as pool:
        return dict(zip(checkouts, pool.map(run, checkouts.values()), strict=True))


def teacher_of(checkout: Checkout) -> str:
    """Return the name of the model that others are compared with."""
    return checkout.params()["evaluate"].get("reference", "base")


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.__name__)
def variant(variants, request):
    return request.param, *variants[request.param]


def test_the_chain_ends_without_errors_and_is_up_to_date(variant):
    _, checkout, said = variant
    assert not said.count("ERROR"), said
    assert checkout.repro().ran == []


def test_every_number_is_finite_and_every_model_measured(variant):
    _, checkout, _ = variant
    metrics = json.loads((checkout / "artifacts/evaluate/metrics.json").read_text())
    params = checkout.params()
    models = {teacher_of(checkout), *params["pretrain"], *params["reflow"], *params["distill"]}
    assert {row["model"] for row in metrics["rows"]} == models
    numbers = [v for row in metrics["rows"] for v in row.values() if isinstance(v, float)]
    headline = [(name, fact, v) for name, row in metrics["headline"].items() for fact, v in row.items()]
    unknown = {(name, fact) for name, fact, v in headline if v is None}
    rangeless = variant[0] in (conditional_toy, teacher_alone)  # points and latents
    fine = {row["name"] for row in metrics["rows"] if row["grid"] == "fine"}  # is the truth
    assert unknown == {(name, "endpoint_rmse") for name in fine} | {
        (name, "outside") for name in metrics["headline"] if rangeless
    }
    assert all(map(math.isfinite, [*numbers, *(v for _, _, v in headline if v is not None)]))
    curve = list(csv.DictReader((checkout / "artifacts/evaluate/curve.csv").open()))
    assert {row["model"] for row in curve} >= models


def test_there_are_pictures_and_a_page_that_holds_them(variant):
    _, checkout, _ = variant
    for made in ("prepare", f"models/{teacher_of(checkout)}", "models/boss-4", "evaluate"):
        content = (checkout / f"artifacts/{made}/samples.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 1000
    page = (checkout / "artifacts/evaluate/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "boss-4" in page


def test_own_images_have_their_shape_and_no_labels(variants):
    checkout, _ = variants[own_images]
    facts = json.loads((checkout / "artifacts/prepare/manifest.json").read_text())["facts"]
    assert facts["shape"] == [3, 12, 12]
    assert facts["classes"] == 0
    assert json.loads((checkout / "artifacts/models/one-step/config.json").read_text())["shape"] == [
        3,
        12,
        12,
    ]


def test_a_smaller_student_of_pairs_runs_by_settings_alone(variants):
    checkout, _ = variants[own_images]
    large, *small = (
        sum(weight.numel() for weight in load_model(checkout / f"artifacts/models/{name}").parameters())
        for name in ("base", "round1", "one-step")
    )
    assert small[0] == small[1] < 0.3 * large


def test_a_student_in_latents_is_shown_and_measured_as_images(variants):
    checkout, _ = variants[in_latents]
    facts = json.loads((checkout / "artifacts/prepare/manifest.json").read_text())["facts"]
    assert facts["shape"] == [4, 8, 8]
    assert facts["codec"]["rmse"] > 0
    assert all(net.shape == (3, 16, 16) for net in load_nets(checkout / "artifacts/nets").values())
    assert load_config(checkout / "artifacts/models/boss-4").shape == (4, 8, 8)
    assert "the autoencoder loses" in (checkout / "artifacts/evaluate/report.html").read_text()


def test_a_conditional_student_has_the_classes_of_its_teacher(variants):
    checkout, _ = variants[conditional_toy]
    for model in ("base", "narrow", "boss-4", "one-step"):
        config = json.loads((checkout / f"artifacts/models/{model}/config.json").read_text())
        assert config["classes"] == 8


def test_each_of_two_teachers_has_its_students_and_one_is_the_reference(variants):
    checkout, _ = variants[conditional_toy]

    def told(model):
        return json.loads((checkout / f"artifacts/models/{model}/config.json").read_text())

    widths = {
        model: told(model)["architecture"]["width"] for model in ("base", "narrow", "boss-4", "one-step")
    }
    assert widths == {"base": 32, "narrow": 24, "boss-4": 32, "one-step": 24}
    assert told("one-step")["prediction"] == told("narrow")["prediction"] == "v"
    metrics = json.loads((checkout / "artifacts/evaluate/metrics.json").read_text())
    assert {row["teacher"].partition("@")[0] for row in metrics["rows"]} == {"narrow"}
    assert {row["model"] for row in metrics["rows"] if row["grid"] == "bellman"} == {"base", "narrow"}


def test_a_jittered_student_is_searched_where_its_timesteps_were_moved(variants):
    checkout, _ = variants[conditional_toy]
    config = json.loads((checkout / "artifacts/models/boss-4/config.json").read_text())
    own, jitter = config["grid"]["times"], config["jitter"]
    found = json.loads((checkout / "artifacts/search/boss-4/grids.json").read_text())
    assert found["scores"]["4"].keys() == {"own", "coordinate_descent"}
    times = found["grids"]["4"]["times"]
    assert found["grids"]["4"]["guidance"] == 1
    for timestep, time in enumerate(times):
        low, high = reach(own, timestep, jitter)
        assert low - 1e-9 <= time <= high + 1e-9
    rows = json.loads((checkout / "artifacts/evaluate/metrics.json").read_text())["rows"]
    assert ("boss-4@4/coordinate_descent" in {row["name"] for row in rows}) == (times != own)


def test_a_chain_without_data_notes_that_and_trains_no_teacher(variants):
    checkout, _ = variants[teacher_alone]
    assert sorted(folder.name for folder in (checkout / "artifacts/models").iterdir()) == ["boss-4", "tiny"]
    told = "there is no data: 160 samples of data/tiny by 8 NFE of ab2 stand in for it"
    assert told in (checkout / "artifacts/evaluate/report.html").read_text()
    assert json.loads((checkout / "artifacts/prepare/manifest.json").read_text())["facts"]["train"] == 120


def test_a_student_of_a_pipeline_goes_back_into_it(variants):
    checkout, _ = variants[teacher_alone]
    made = checkout / "artifacts/export/boss-4"
    facts = json.loads((made / "manifest.json").read_text())["facts"]
    assert facts["nfe"] == 4
    assert facts["relative_difference"].keys() == {"diffusers", "pipeline"}
    assert max(facts["relative_difference"].values()) <= 1e-5
    theirs = {file.name for file in (checkout / "data/tiny").iterdir()}
    assert {file.name for file in (made / "pipeline").iterdir()} == theirs | {"sampling.json"}
