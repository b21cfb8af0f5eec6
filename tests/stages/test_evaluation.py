"""What entries are measured against: data as it is saved, fine runs that converge, and the guidance shown."""

import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jobs import Listener, job_in

from fewstep import model, randomness, refining
from fewstep.checkpoint import model_digest, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.metrics import features
from fewstep.metrics.nets import FIRST, KINDS, load_nets, train_net
from fewstep.metrics.protocol import BlockScores
from fewstep.metrics.saved import as_saved
from fewstep.model import Model, ModelConfig
from fewstep.noises import GAUSSIAN
from fewstep.randomness import keys_of
from fewstep.shards import Shards, write_shards
from fewstep.timing import with_second_time
from stages.evaluation import measuring, yardstick
from stages.evaluation.entries import Entry, KeptEntries
from stages.evaluation.evaluation import is_student, off_truths
from stages.evaluation.listed import entries_of, sampled_entries
from stages.evaluation.macs import macs_of
from stages.evaluation.measuring import FineRun, converge
from stages.evaluation.refined import models_in, refined_entries
from stages.evaluation.yardstick import Protocol, Yardstick, first_of, measure_constants
from stages.settings.fields import Plugin
from stages.settings.refined import RefinedSettings
from stages.settings.samplers import SamplerSettings

SHAPE = (1, 8, 8)
PROTOCOL = Protocol(blocks=2, samples=50, batch=20, seed=0)


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.line = torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Linear(8, 8)

    def forward(self, x, t):
        return self.line(self.conv(x)) * t.view(-1, 1, 1, 1)


class Attention(torch.nn.Module):
    """Rows of the image look at each other, which are drawn to twice the height before."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(8, 8)

    def forward(self, x, t):
        x = self.line(torch.nn.functional.interpolate(x, size=(16, 8)))
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("network", "macs"),
    [
        (Layers, 8 * 8 * 3 * 9 + 3 * 8 * 8 * 8),
        (Attention, 16 * 8 * 8 + 2 * 16 * 16 * 8),
    ],
)
def test_macs_are_those_of_a_networks_products_and_convolutions(network, macs, monkeypatch):
    for slow in ("torch._dynamo", "sympy"):  # take seconds to import
        monkeypatch.setitem(sys.modules, slow, None)
    config = ModelConfig(architecture={"name": "layers"}, shape=SHAPE)
    assert macs_of(Model(config, network())) == macs


class Louder(torch.nn.Module):
    """A velocity that makes of each noise a multiple of it, far out of range."""

    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x, t, **conditions):
        return (self.factor - 1) * x / (1 + (self.factor - 1) * t.view(-1, 1, 1, 1))


def loud(factor=3.0, **config):
    settings = {"architecture": {"name": "unet"}, "shape": SHAPE, "grid": uniform(1), "trained_times": "grid"}
    return Model(ModelConfig(**settings | config), Louder(factor)).eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(90, *SHAPE, generator=generator) * 2 - 1
    data[torch.arange(90), 0, torch.arange(90) % 3] = 1
    return data


def prepared_in(folder, images, per_shard):
    labels = torch.arange(len(images)) % 3
    for split, rows in (("train", slice(0, 70)), ("held_out", slice(70, 90))):
        part, facts = images[rows], {"pixels": True}
        write_shards(folder / split, len(part), per_shard, lambda a, b, p=part: {"data": p[a:b]}, facts=facts)
    for kind in KINDS:
        net = train_net(kind, images[:70], labels[:70], pixels=True, steps=5, clusters=3, seed=0)
        features.save(folder, net, {}, name=kind.name)
    return folder


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    return prepared_in(tmp_path_factory.mktemp("prepared"), images, 70)


@pytest.fixture(scope="module")
def constants(prepared):
    return measure_constants(prepared, prepared, PROTOCOL)


def measured(prepared, constants, student):
    entry = Entry("a", "own", student.config.grid, 1, "digest", 1.0)
    found = Yardstick(prepared, prepared, PROTOCOL, constants)
    return found.measure(entry, student, as_flow(student))


def test_images_are_measured_as_they_would_be_saved_and_what_that_takes_off_is_reported(prepared, constants):
    result = measured(prepared, constants, loud())
    samples = torch.cat(list(PROTOCOL.sample(0, loud(), as_flow(loud()), uniform(1))))
    assert samples.abs().max() > 3
    nets = load_nets(prepared)

    class Saved(torch.nn.Module):
        def forward(self, x, t, **conditions):
            return as_saved(3 * x) - x

    clean = Model(replace(loud().config), Saved()).eval()
    saved = measured(prepared, constants, clean)
    assert [scores.fd_clf for scores in result.scores] == pytest.approx([s.fd_clf for s in saved.scores])
    assert len(result.scores) == len(nets)
    for name in ("recall", "nearest_neighbour_ratio", "class_share_difference"):
        assert result.more[name] == pytest.approx(saved.more[name])
    assert result.more["outside"] == pytest.approx(0.74, abs=0.02)  # of a normal of deviation 3
    assert saved.more["outside"] == 0


def test_a_sampler_gives_a_sample_the_same_noise_in_any_batch_and_has_entries_of_its_own():
    made = loud(grid=None, trained_times="all")
    sde = Plugin("fewstep.samplers").decode({"name": "sde", "strength": 0.5})
    asked = SamplerSettings(model="a", sampler=sde, nfe=(1, 4), last_step=0.1)
    one, four = sampled_entries("a", made, {"soft": asked}, "digest")
    assert not list(sampled_entries("b", made, {"soft": asked}, "digest"))
    assert (one.name, four.name, one.grid.times) == ("a@1/soft", "a@4/soft", (0.0, 1.0))
    assert four.grid.times == pytest.approx((0, 0.3, 0.6, 0.9, 1))
    short = loud(grid=None, trained_times="all", path="ve", prediction="data")  # does not reach the data
    with pytest.raises(
        UserError, match=r"evaluate\.samplers\.soft\.last_step 0\.001 does not fit a: it must be"
    ):
        list(sampled_entries("a", short, {"soft": asked.model_copy(update={"last_step": 0.001})}, "digest"))
    here, there = (
        torch.cat(list(replace(PROTOCOL, batch=size).sample(1, made, as_flow(made), four.grid, sde.options)))
        for size in (20, 50)
    )
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, torch.cat(list(PROTOCOL.sample(1, made, as_flow(made), four.grid))))


def ends_at(student):
    return torch.cat(list(PROTOCOL.sample(0, student, as_flow(student), uniform(1))))


def test_entries_are_measured_in_the_precision_that_is_asked_for(prepared, constants, tmp_path):
    unet = {"name": "unet", "width": 4, "multipliers": [1], "blocks": 1}
    made = model.build(ModelConfig(architecture=unet, shape=SHAPE), seed=0)
    with torch.no_grad():  # a fresh network's last layer is zero
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_model(tmp_path, made)
    entry, found = Entry("a", "uniform", uniform(2), 2, model_digest(tmp_path), 1.0), {}
    for precision in ("float32", "bfloat16"):
        measuring.start_worker(prepared, prepared, PROTOCOL, constants, {}, {"a": tmp_path}, precision)
        found[precision] = measuring.measure(entry).ends
    off = (found["bfloat16"] - found["float32"]).square().mean().sqrt()
    assert 0 < off < 0.05 * found["float32"].std()


def test_where_samples_end_is_kept_raw(prepared, constants):
    ends = measured(prepared, constants, loud()).ends
    assert ends.abs().max() > 3
    assert torch.equal(ends, ends_at(loud()))


def test_how_far_a_sample_ends_from_the_truth_of_its_guidance_is_measured_raw(prepared, constants, tmp_path):
    kept, one, two = KeptEntries(tmp_path), measured(prepared, constants, loud()), ends_at(loud(2.0))
    plain, guided = (Entry("a", "own", uniform(1), 1, "digest", guidance) for guidance in (1.0, 2.5))
    truths = {entry.guidance: replace(entry, digest=f"{entry.guidance}") for entry in (plain, guided)}
    for entry, ends in ((plain, one.ends), (truths[1.0], two), (truths[2.5], one.ends)):
        kept.write(entry, replace(one, ends=ends))
    far = float((two / 2).square().mean().sqrt())
    assert off_truths(kept, [plain], truths) == {plain: pytest.approx(far)}
    assert off_truths(kept, [guided], truths) == {guided: 0}


def test_students_are_those_of_a_grid_and_flow_maps_at_any_number_of_calls(teacher):
    made, _ = teacher
    few = Entry("a", "uniform", uniform(2), 2, "digest", 1.0)
    assert not is_student(few, made.config)
    assert is_student(replace(few, kind="own"), made.config)
    assert is_student(few, with_second_time(made, seed=0).config)


def test_constants_do_not_depend_on_how_the_data_is_cut(images, constants, tmp_path):
    other_place = prepared_in(tmp_path, images, 11)
    other = measure_constants(other_place, other_place, PROTOCOL)
    assert other.held_out_distance == pytest.approx(constants.held_out_distance)
    np.testing.assert_allclose(other.shares, constants.shares)
    for one, two in zip(other.references, constants.references, strict=True):
        np.testing.assert_allclose(one.moments.covariance, two.moments.covariance, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(one.features, two.features, rtol=1e-3, atol=1e-3)
    single_place = prepared_in(tmp_path / "single", images, 69)  # and a shard of one
    single = measure_constants(single_place, single_place, PROTOCOL)
    assert single.held_out_distance == pytest.approx(constants.held_out_distance)
    assert [f.fd_clf for f in other.floors] == pytest.approx([f.fd_clf for f in constants.floors], rel=1e-3)


def test_of_a_set_too_large_a_draw_is_held_against_samples_and_copies_are_looked_for_in_all_of_it(
    prepared, constants, monkeypatch
):
    monkeypatch.setattr(yardstick, "LOOKED_AT", 40)
    found = measure_constants(prepared, prepared, PROTOCOL)
    assert [reference.moments.count for reference in constants.references] == [70] * 3
    assert [reference.moments.count for reference in found.references] == [40] * 3
    assert found.shares.sum() == pytest.approx(1)
    assert found.held_out_distance == constants.held_out_distance


def test_a_set_too_large_is_seen_through_a_draw_in_order(images, prepared):
    train = Shards(prepared / "train")
    some = train.some(20, seed=0)["data"]
    places = [int((images == one).flatten(1).all(1).nonzero()) for one in some]
    assert places == sorted(set(places))
    assert max(places) - min(places) > 30  # from all over the set
    assert torch.equal(train.some(1000, seed=0)["data"], train.load()["data"])
    assert not torch.equal(train.some(20, seed=1)["data"], some)


def test_samples_are_kept_whole_only_as_far_as_memory_goes(monkeypatch):
    parts = [torch.zeros(20, *SHAPE) for _ in range(3)]
    assert len(first_of(iter(parts))) == 60
    monkeypatch.setattr(yardstick, "FIRST_BYTES", 25 * 64 * 4)
    assert len(first_of(iter(parts))) == 25
    monkeypatch.setattr(yardstick, "FIRST_BYTES", 1)
    assert len(first_of(iter(parts))) == 1


def scores(distance, error=0.1):
    return BlockScores(distance, error, 1.6, 0.2, 1.7, 0.01, 0.001, 2, 50, (1.4, 1.6))


FEW = Entry("round1", "uniform", uniform(3), 3, "digest", 1.0)


class Found:
    """What `converge` asks of the measured entries; the distance is the limit's plus `decay` over NFE."""

    def __init__(self, folder, decay):
        self.folders, self.results, self.decay, self.said = {"base": folder}, {}, decay, []
        self.rounds = []
        self.job = SimpleNamespace(progress=Listener(self.said))

    def measure(self, entries):
        self.rounds.append(sorted(entry.nfe for entry in entries if entry not in self.results))
        for entry in entries:
            distance = 1 + self.decay / entry.nfe
            self.results[entry] = SimpleNamespace(scores=(scores(1.0), scores(distance)))


@pytest.fixture
def teacher(tmp_path):
    settings = {"architecture": {"name": "mlp", "width": 8}, "shape": (2,), "classes": 3}
    made = model.build(ModelConfig(**settings), seed=0)
    save_model(tmp_path / "base", made)
    return made, tmp_path / "base"


def test_the_fine_run_is_doubled_until_no_net_sees_it_move(teacher):
    made, folder = teacher
    found = Found(folder, decay=6.0)  # 32 to 64 moves by .094, 16 to 32 by .19
    entry, told = converge(found, made, FineRun("base", "heun", 8), [FEW])[1.0]
    assert (entry.nfe, entry.grid.solver, entry.digest) == (64, "heun", model_digest(folder))
    assert entry.name == "base@64/fine"
    assert told == (
        "base@64/fine has converged: its distance moved by -4.3%, 0.94 of its error, "
        "when the steps were doubled"
    )
    assert found.rounds == [[3, 8, 16], [32], [64]]  # what is not fine waits for no fine run
    assert told in found.said


def test_a_run_that_does_not_converge_ends_and_says_so(teacher):
    made, folder = teacher
    entry, told = converge(Found(folder, decay=1e4), made, FineRun("base", "euler", 4), [FEW])[1.0]
    assert entry.nfe == 4 * 2**measuring.DOUBLINGS
    assert "has not converged, so ratios to it are too low" in told
    assert told.endswith("; raise evaluate.reference_nfe")


def test_each_guidance_has_a_fine_run_of_its_own(teacher):
    made, folder = teacher
    guided = replace(FEW, guidance=2.5)
    runs = converge(Found(folder, decay=0.0), made, FineRun("base", "heun", 8), [guided])
    assert {guidance: (run.grid.guidance, run.nfe) for guidance, (run, _) in runs.items()} == {
        1.0: (1.0, 16),
        2.5: (2.5, 32),  # guidance takes two calls a velocity
    }
    assert runs[2.5][0].name == "base@32/fine, guidance 2.5"


def test_models_are_read_one_after_the_other(teacher):
    _, folder = teacher
    before: list[weakref.ref] = []
    for _, opened in models_in(dict.fromkeys("abc", folder), Listener([])):
        assert not any(known() for known in before)
        before.append(weakref.ref(opened))
        del opened
    assert len(before) == 3


def test_a_refiner_has_no_entry(teacher, tmp_path):
    (made, folder), said = teacher, []
    refiner = refining.refiner_for(made, {"name": "mlp", "width": 4, "depth": 1}, seed=0)
    save_model(tmp_path / "turbo", refiner)
    models = {"base": folder, "turbo": tmp_path / "turbo"}
    assert [name for name, _ in models_in(models, Listener(said))] == ["base"]
    assert said == ["turbo is a refiner: evaluate.refined samples it beside its teacher"]


def test_a_model_has_entries_beside_its_refiner_that_count_its_own_calls(tmp_path):
    made = loud(grid=None, trained_times="all")
    refiner = refining.refiner_for(
        Model(replace(made.config, architecture={"name": "mlp"}), made.network),
        {"name": "mlp", "width": 4, "depth": 1},
        seed=0,
    )
    folders = {"a": tmp_path / "a", "turbo": tmp_path / "turbo"}
    save_model(folders["turbo"], refiner)
    save_model(folders["a"], made)
    asked = {"fast": RefinedSettings(model="a", refiner="turbo", blocks=[(1, 1, 2), (0, 2, 0)])}
    three, plain = refined_entries("a", made, asked, folders, 0)
    assert not list(refined_entries("b", made, asked, folders, 0))
    assert (three.name, three.nfe, three.grid.steps) == ("a@3/fast-h1p1r2", 3, 4)
    assert (plain.name, plain.nfe) == ("a@3/fast-h0p2r0", 3)
    kept = KeptEntries(tmp_path / "kept")
    assert len({kept._file(entry) for entry in (three, plain, replace(three, refinement=None))}) == 3
    flow = as_flow(made)
    (part,) = replace(PROTOCOL, batch=50).sample(
        0, made, flow, three.grid, refined=(refiner, three.refinement.blocks)
    )
    noise = GAUSSIAN.draw("evaluate", keys_of(0, 0, 50), SHAPE)
    with torch.no_grad():
        wanted = refining.follow(flow, refiner, noise, refining.Blocks(1, 1, 2)).x
    torch.testing.assert_close(part, wanted)


def test_a_student_is_compared_with_the_guidance_that_it_was_taught(teacher, tmp_path):
    made, folder = teacher
    taught = {"grid": uniform(2), "trained_times": "grid", "baked_guidance": 2.5}
    student = Model(replace(made.config, **taught), made.network)
    save_model(tmp_path / "boss-2", student)
    job = job_in(tmp_path, "evaluate", inputs={"model boss-2": tmp_path / "boss-2", "model base": folder})
    (own,) = entries_of("boss-2", student, (1,), job)
    assert (own.guidance, own.grid.guidance, own.nfe) == (2.5, 1.0, 2)
    assert [entry.guidance for entry in entries_of("base", made, (1, 2), job)] == [1.0, 1.0]


def test_class_accuracy_is_of_the_classes_that_were_asked_for(prepared, constants):
    assert measured(prepared, constants, loud()).more["class_accuracy"] is None
    student = loud(classes=3)
    keys = keys_of(PROTOCOL.seed, 0, PROTOCOL.samples)
    asked = randomness.labels("evaluate", keys, student.config.class_shares)
    made = torch.cat(list(PROTOCOL.sample(0, student, as_flow(student), uniform(1))))
    first = load_nets(prepared)[FIRST]
    found = measured(prepared, constants, student).more["class_accuracy"]
    assert found == first.accuracy(made, asked)
    assert found != first.accuracy(made, asked.roll(1))
    first.taught_by = "clusters3"  # they are no classes of the data
    assert yardstick.share_of_right(first, first.classify(made), asked) is None


def test_measurements_do_not_depend_on_how_many_samples_memory_holds(prepared, constants, monkeypatch):
    whole = measured(prepared, constants, loud())
    monkeypatch.setattr(yardstick, "FIRST_BYTES", 30 * 64 * 4)
    few = measured(prepared, constants, loud())
    assert few.scores == whole.scores
    for name in ("outside", "recall", "class_share_difference"):
        assert few.more[name] == whole.more[name]
    assert torch.equal(few.samples, whole.samples)
    assert torch.equal(few.ends, ends_at(loud())[:30])
