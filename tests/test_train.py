"""The loop: what it computes, on one network and on several; resuming is in test_resume.py."""

import math
from dataclasses import dataclass

import pytest
import torch
from recorded import VARIANTS, FixedBatches, Recorder, TwoNetworks, run, student, student_of, teacher
from safetensors.torch import load_file
from torch import nn

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.sim import Sim
from fewstep.settings import TrainSettings
from fewstep.training import trainee as trainee_module
from fewstep.training.method import Method, Net
from fewstep.training.networks import SKIPS, Training


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@dataclass(frozen=True, kw_only=True)
class PullTo(Method):
    """Pull one weight towards a number: small enough to follow by hand."""

    target: float = 3.0

    def loss(self, nets, batch, network, progress, keys):
        return (nets["student"].network.weight - self.target).square().expand(len(keys))


class OneWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def one_weight():
    model = student()
    model.network = OneWeight()
    return model


@dataclass(frozen=True)
class Weighted(FixedBatches):
    """The first samples of each batch, of which those beyond `half` count nothing."""

    half: int = 0

    def __getitem__(self, step):
        batch, keys = FixedBatches(8)[step]
        if self.half:
            weight = torch.where(torch.arange(8) < self.half, 8 / self.half, 0.0)
            return batch | {"weight": weight}, keys
        return {"data": batch["data"][: self.size]}, keys[: self.size]


def test_a_sample_without_weight_teaches_nothing_and_one_of_twice_the_weight_twice(tmp_path):
    settings = TrainSettings(steps=6, batch=8)
    some = run(tmp_path / "some", settings=settings, batches=Weighted(4))
    weighted = run(tmp_path / "weighted", settings=settings, batches=Weighted(8, half=4))
    torch.testing.assert_close(weights(weighted.model), weights(some.model), rtol=1e-4, atol=1e-6)
    assert weighted.loss == pytest.approx(some.loss, rel=1e-5)
    everything = run(tmp_path / "all", settings=settings, batches=FixedBatches(8))
    assert not torch.allclose(weights(weighted.model), weights(everything.model), rtol=1e-2)


def test_held_out_losses_are_weighted_too_and_no_method_sees_a_weight():
    seen = set()

    class Watching(FlowMatching):
        def prepare_batch(self, batch, keys, law):
            seen.update(batch)
            return super().prepare_batch(batch, keys, law)

    training = Training(
        Watching(), student(), {}.get, TrainSettings(steps=1, batch=4), 0, torch.device("cpu")
    )
    batch, _ = FixedBatches(8)[0]
    plain = training.evaluate([batch])
    assert training.evaluate([batch | {"weight": torch.full((8,), 2.0)}]) == 2 * plain
    halves = [
        training.evaluate([batch | {"weight": w}]) for w in (torch.arange(8) % 2, 1 - torch.arange(8) % 2)
    ]
    assert sum(halves) == pytest.approx(plain)
    assert "weight" not in seen


def test_adam_clip_schedule_and_average_by_hand(tmp_path):
    settings = TrainSettings(
        steps=30, batch=4, learning_rate=0.1, warmup=5, clip=0.5, ema=0.8, betas=(0.9, 0.95)
    )
    trained = run(tmp_path, method=PullTo(), model=(model := one_weight()), settings=settings)
    w = average = m = v = 0.0
    losses = 0.0
    for n in range(30):
        gradient, loss = 2 * (w - 3), (w - 3) ** 2
        gradient *= min(1.0, 0.5 / (abs(gradient) + 1e-6))
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        w -= settings.rate(n) * (m / (1 - 0.9 ** (n + 1))) / (math.sqrt(v / (1 - 0.95 ** (n + 1))) + 1e-8)
        decay = min(0.8, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * w
        losses += loss / 30
    assert model.network.weight.item() == pytest.approx(w, abs=1e-5)
    assert trained.model.network.weight.item() == pytest.approx(average, abs=1e-5)
    assert trained.loss == pytest.approx(losses, rel=1e-4)
    assert trained.held_out_loss == pytest.approx((average - 3) ** 2, rel=1e-4)


def test_flow_matching_learns(tmp_path):
    recorder = Recorder()
    settings = TrainSettings(steps=200, batch=64, learning_rate=5e-3)
    trained = run(tmp_path, method=FlowMatching(), settings=settings, progress=recorder)
    held_out = [values["held_out"] for _, values in recorder.measured if "held_out" in values]
    assert len(held_out) == 11
    assert held_out[-1] == trained.held_out_loss < 0.9 * held_out[0]
    assert not trained.model.training


def test_losses_are_reported_at_even_steps_and_held_out_ones_less_often(tmp_path):
    recorder = Recorder()
    run(tmp_path, settings=TrainSettings(steps=80, batch=4), progress=recorder)
    assert recorder.started == [("train", 80, 0)]
    assert recorder.advanced == 80
    steps = [step for step, _ in recorder.measured]
    assert steps == list(range(0, 81, 2))
    assert [step for step, values in recorder.measured if "held_out" in values] == list(range(0, 81, 8))
    names = {"loss", "learning_rate", "steps_per_second", "data_wait"}
    assert all(names <= values.keys() for _, values in recorder.measured[1:])


def test_each_held_out_loss_is_computed_once(tmp_path, monkeypatch):
    recorder, computed, evaluate = Recorder(), [], Training.evaluate
    monkeypatch.setattr(
        Training, "evaluate", lambda *given: computed.append(evaluate(*given)) or computed[-1]
    )
    trained = run(tmp_path, settings=TrainSettings(steps=20, batch=4), progress=recorder)
    assert [values["held_out"] for _, values in recorder.measured if "held_out" in values] == computed
    assert (trained.first_held_out_loss, trained.held_out_loss) == (computed[0], computed[-1])


@pytest.mark.parametrize("steps", [1, 7])
def test_short_trainings(tmp_path, steps):
    trained = run(tmp_path, settings=TrainSettings(steps=steps, batch=4))
    assert math.isfinite(trained.loss)
    assert math.isfinite(trained.held_out_loss)


def test_networks_are_updated_in_alternation_and_others_stay(tmp_path):
    method, recorder = TwoNetworks(), Recorder()
    teacher = student(seed=9)
    before = weights(teacher).clone()
    trained = run(
        tmp_path,
        method=method,
        load={"teacher": teacher}.get,
        settings=TrainSettings(steps=12, batch=4),
        progress=recorder,
    )
    updates = [turn for step in range(12) for turn in method.updates(step)]
    assert [turn for turn, _ in method.seen] == updates
    for turn, open_nets in method.seen:
        assert open_nets == {turn}  # only that network's weights took part in the graph
    assert len(set(method.keys)) == len(updates)  # each turn draws its own numbers
    assert torch.equal(weights(teacher), before)
    assert not teacher.training
    assert {"loss", "loss_critic"} <= recorder.measured[-1][1].keys()
    assert method.critic_modes == {(True, True), (False, False)}  # evaluation mode on held-out data only
    assert trained.model is not None


def test_a_network_learning_rate_is_relative(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Slow(PullTo):
        def networks(self, student, load):
            return {"student": Net(student, learning_rate=0.0)}

    model = one_weight()
    trained = run(tmp_path, method=Slow(), model=model)
    assert model.network.weight.item() == 0.0
    assert trained.model is model  # no average was asked for


def test_bfloat16_computes_in_bfloat16_but_keeps_float32(tmp_path):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Watching(FlowMatching):
        def loss(self, nets, batch, network, progress, keys):
            seen.append(nets["student"].network.first(batch["data"]).dtype)
            return super().loss(nets, batch, network, progress, keys)

    settings = TrainSettings(steps=20, batch=16, precision="bfloat16")
    half = run(tmp_path / "half", method=Watching(), settings=settings)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    full = run(tmp_path / "full", method=FlowMatching(), settings=TrainSettings(steps=20, batch=16))
    assert half.held_out_loss == pytest.approx(full.held_out_loss, rel=0.02)
    assert half.held_out_loss != full.held_out_loss


IN_BFLOAT16 = [name for name in VARIANTS if name != "meanflow"]  # its loss is near 1 in any precision


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_every_variant_learns_in_bfloat16_what_it_does_in_float32(tmp_path, name):
    losses = []
    for precision in ("float32", "bfloat16"):
        method, settings = VARIANTS[name], TrainSettings(steps=4, batch=16, precision=precision)
        trained = run(
            tmp_path / precision,
            method=method,
            model=student_of(method),
            load=teacher,
            settings=settings,
        )
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trained.model.parameters())
        losses.append(trained.held_out_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=2e-3)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("method", [Dmd(fake_warmup=0), Sim(fake_warmup=0)], ids=lambda m: type(m).__name__)
def test_a_teacher_in_half_precision_teaches_nearly_the_same(tmp_path, method):
    def taught(frozen):
        settings = TrainSettings(steps=6, batch=16, precision="bfloat16", frozen=frozen)
        return run(
            tmp_path / frozen,
            method=method,
            model=student_of(method),
            load=lambda name: student(seed=9),
            settings=settings,
        )

    whole, half = taught("float32"), taught("bfloat16")
    for mine, other in zip(half.model.parameters(), whole.model.parameters(), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=0)


@dataclass(frozen=True, kw_only=True)
class Breaks(FlowMatching):
    """Has no finite loss, or gradient, at some steps of 30."""

    steps: tuple[int, ...] = (7,)
    how: str = "loss"

    def loss(self, nets, batch, network, progress, keys):
        losses = super().loss(nets, batch, network, progress, keys)
        if round(progress * 30) not in self.steps:
            return losses
        if self.how == "loss":
            return losses * torch.nan
        weight = nets["student"].network.first.weight
        return losses + (weight.sum() * 0).abs().sqrt()  # the square root of 0 has an infinite slope


def lost_from(first):
    return tuple(range(first, first + SKIPS))


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_divergence_stops_the_training_and_keeps_the_last_good_state(tmp_path, how, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    method = Breaks(steps=lost_from(7), how=how)
    with pytest.raises(UserError, match="10 updates in a row, up to step 16; lower learning_rate or clip"):
        run(tmp_path, method=method, settings=TrainSettings(steps=30, batch=4))
    state = load_file(tmp_path / "train_state.safetensors")
    assert int(state["step"]) == 16
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("at_hand", [True, False])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(monkeypatch, how, at_hand):
    monkeypatch.setattr(trainee_module, "at_hand", lambda tensor: at_hand)
    settings = TrainSettings(steps=30, batch=4)
    training = Training(Breaks(how=how), student(), {}.get, settings, 0, torch.device("cpu"))
    for step in range(7):
        training.take_step(*FixedBatches(4)[step])
    trainee = training.trainees["student"]

    def state():
        moments = trainee.optimiser.state_dict()["state"]
        tensors = [weights(training.modules["student"]), *(m[name] for m in moments.values() for name in m)]
        return [tensor.clone() for tensor in tensors] + [trainee.loss.clone()]

    before = state()
    training.take_step(*FixedBatches(4)[7])
    assert all(map(torch.equal, before, state()))
    assert (training.skipped(), int(trainee.in_a_row)) == (1, 1)
    training.take_step(*FixedBatches(4)[8])
    assert not torch.equal(before[0], weights(training.modules["student"]))
    assert (training.skipped(), int(trainee.in_a_row)) == (1, 0)


def test_nine_lost_updates_are_left_out_and_ten_that_were_interrupted_are_refused(tmp_path, monkeypatch):
    settings = TrainSettings(steps=30, batch=4)
    trained = run(tmp_path / "nine", method=Breaks(steps=lost_from(7)[:-1]), settings=settings)
    assert trained.skipped == 9
    assert math.isfinite(trained.loss)
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    method = Breaks(steps=lost_from(7))
    with pytest.raises(KeyError):
        run(
            tmp_path / "ten",
            method=method,
            settings=settings,
            batches={n: FixedBatches(4)[n] for n in range(12)},
        )
    with pytest.raises(UserError, match="up to step 16"):
        run(tmp_path / "ten", method=method, settings=settings)


@pytest.mark.parametrize("text", ["abc", "", "-1", "nan"])
def test_a_wrong_time_between_checkpoints_is_named(tmp_path, text, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", text)
    with pytest.raises(UserError, match=f"FEWSTEP_CHECKPOINT_SECONDS must be a number .*, got '{text}'"):
        run(tmp_path, settings=TrainSettings(steps=1, batch=4))


def test_held_out_noise_does_not_depend_on_the_seed_or_the_training_batch(tmp_path):
    first = run(tmp_path / "a", settings=TrainSettings(steps=1, batch=4, learning_rate=1e-30))
    other = run(tmp_path / "b", settings=TrainSettings(steps=1, batch=3, learning_rate=1e-30), seed=5)
    assert first.held_out_loss == pytest.approx(other.held_out_loss, rel=1e-6)


def test_fixed_batches_are_what_the_loop_asks_for():
    batch, keys = FixedBatches(4)[3]
    assert batch["data"].shape == (4, 2)
    assert torch.equal(keys, randomness.keys_of(11, 12, 16))


def test_samples_that_were_trained_on_are_judged_like_those_held_out(tmp_path):
    settings = TrainSettings(steps=3, batch=4)
    known = FixedBatches(7)[0][0]
    trained = run(tmp_path / "a", settings=settings, known=[known])
    assert trained.known_losses.shape == trained.fresh_losses.shape == (7,)
    held_out = FixedBatches(10)[10_000][0]
    same = run(tmp_path / "b", settings=settings, known=[held_out])
    assert torch.equal(same.known_losses, same.fresh_losses)
    assert torch.equal(same.fresh_losses[:7], trained.fresh_losses)
    assert float(same.fresh_losses.mean()) == pytest.approx(same.held_out_loss, rel=1e-6)
    without = run(tmp_path / "c", settings=settings)
    assert without.known_losses is without.fresh_losses is None
    assert torch.equal(weights(without.model), weights(trained.model))
