"""Power-function averages: exact against their definition, and combined into those of other widths."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import watching
from recorded import FixedBatches, run, student
from safetensors.torch import load_file

from fewstep import command_line, power_averages
from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.methods.flow_matching import FlowMatching
from fewstep.power_averages import Profile, averaged, combination, decay, gamma_of
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training

SETTINGS = TrainSettings(steps=24, batch=8, widths=(0.05, 0.1), snapshots=4)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_width_is_the_relative_standard_deviation_of_the_profile(width):
    gamma = gamma_of(width)
    steps = (np.arange(400_000) + 0.5) / 400_000
    share = (gamma + 1) * steps**gamma / len(steps)
    assert share.sum() == pytest.approx(1, abs=1e-6)
    mean = (share * steps).sum()
    assert math.sqrt((share * (steps - mean) ** 2).sum()) == pytest.approx(width, rel=1e-5)


def test_known_exponents():
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)  # of EDM2
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("gamma", [0.3, 6.94, 16.97])
def test_the_running_average_is_the_closed_form(gamma):
    weights = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor(7.0, dtype=torch.float64)  # the weights before training, which count nothing
    for updates, weight in enumerate(weights):
        kept.lerp_(weight, 1 - decay(updates, gamma))
    steps = torch.arange(51, dtype=torch.float64)
    share = (steps[1:] ** (gamma + 1) - steps[:-1] ** (gamma + 1)) / 50 ** (gamma + 1)
    torch.testing.assert_close(kept, (share * weights).sum(), rtol=1e-12, atol=0)


def test_inner_products_are_integrals():
    one, other = Profile(30, 2.5), Profile(20, 7.0)
    steps = (np.arange(300_000) + 0.5) * 20 / 300_000
    first = 3.5 * steps**2.5 / 30**3.5
    second = 8.0 * steps**7.0 / 20**8.0
    assert one.inner(other) == pytest.approx((first * second).sum() * 20 / 300_000, rel=1e-6)
    assert one.inner(other) == other.inner(one)


def test_a_kept_average_is_found_again():
    kept = [Profile(step, gamma_of(width)) for step in (8, 16, 24) for width in (0.05, 0.1)]
    for number, profile in enumerate(kept):
        np.testing.assert_allclose(combination(kept, profile), np.eye(len(kept))[number], atol=1e-8)


@pytest.mark.parametrize("width", [0.06, 0.08, 0.15])
def test_the_average_of_another_width_is_near_to_one_that_was_kept_all_along(width):
    """Weights that wander, as those of a training do."""
    wanders = torch.randn(3000, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).cumsum(
        0
    )
    every, widths = 3000 // 16, (0.05, 0.1)
    running = {one: torch.zeros(200, dtype=torch.float64) for one in (*widths, width)}
    profiles, kept = [], []
    for updates, weights in enumerate(wanders[: 16 * every]):
        for one, average in running.items():
            average.lerp_(weights, 1 - decay(updates, gamma_of(one)))
        if (updates + 1) % every == 0:
            profiles += [Profile(updates + 1, gamma_of(one)) for one in widths]
            kept += [running[one].clone() for one in widths]
    parts = torch.from_numpy(combination(profiles, Profile(16 * every, gamma_of(width))))
    found = (parts[:, None] * torch.stack(kept)).sum(0)
    spread = (running[0.05] - running[0.1]).norm()
    assert (found - running[width]).norm() < 0.02 * spread


@pytest.mark.parametrize("width", [0.005, 0.06, 0.15, 0.25, 0.28])
@pytest.mark.parametrize("snapshots", [1, 4, 16])
def test_weights_that_never_changed_are_their_average_of_any_width(width, snapshots):
    kept = [Profile(step, gamma_of(one)) for step in range(1, snapshots + 1) for one in (0.05, 0.1)]
    parts = combination(kept, Profile(snapshots, gamma_of(width)))
    assert parts.sum() == pytest.approx(1, abs=1e-9)


def trained(folder, settings=SETTINGS, **options):
    return run(folder, settings=settings, **options)


def files(folder):
    return {file.name: file.read_bytes() for file in (folder / power_averages.FOLDER).glob("*")}


def test_averages_are_kept_at_even_steps_and_change_no_weight(tmp_path):
    plain = trained(tmp_path / "plain", replace(SETTINGS, widths=()))
    kept = trained(tmp_path / "kept")
    assert not (tmp_path / "plain" / power_averages.FOLDER).exists()
    assert sorted(files(tmp_path / "kept")) == [f"{step:08}.safetensors" for step in (6, 12, 18, 24)]
    for one, other in zip(plain.model.parameters(), kept.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_kept_averages_are_those_of_the_weights_of_each_step(tmp_path):
    trained(tmp_path)
    training = Training(FlowMatching(), student(), {}.get, SETTINGS, 0, torch.device("cpu"))
    sums, gamma, batches = {}, gamma_of(0.1), FixedBatches(SETTINGS.batch)
    for step in range(12):
        training.take_step(*batches[step])
        share = ((step + 1) ** (gamma + 1) - step ** (gamma + 1)) / 12 ** (gamma + 1)
        for name, weight in training.modules["student"].named_parameters():
            sums[name] = sums.get(name, 0) + share * weight.detach().double()
    kept = load_file(tmp_path / power_averages.FOLDER / "00000012.safetensors")
    for name, expected in sums.items():
        torch.testing.assert_close(kept[f"0.1/{name}"].double(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(training.modules["width_0.1"].state_dict()[name], kept[f"0.1/{name}"])


def test_averages_end_where_the_monitor_looked_best(tmp_path):
    settings = replace(watching.SETTINGS, widths=(0.05, 0.1), snapshots=4)
    shared = {"method": watching.Pass(), "model": watching.shifting()}
    watched = run(
        tmp_path / "watched", settings=settings, monitor=watching.gaussian_monitor(looks=20), **shared
    )
    every = replace(settings, snapshots=settings.steps)
    run(tmp_path / "alone", settings=every, **shared | {"model": watching.shifting()})
    best = watched.watched.picked.step
    assert 0 < best < settings.steps - 10
    kept, alone = files(tmp_path / "watched"), files(tmp_path / "alone")
    assert sorted(kept) == [f"{step:08}.safetensors" for step in (*range(10, best, 10), best)]
    assert kept.items() <= alone.items()


class Killed(FixedBatches):
    """Batches that end the process, as it were, at a step."""

    def __getitem__(self, step):
        if step == 15:
            raise KeyboardInterrupt
        return super().__getitem__(step)


def test_a_killed_training_resumes_to_the_same_averages(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", batches=Killed(SETTINGS.batch))
    folder = tmp_path / "killed" / power_averages.FOLDER
    (folder / "00000018.safetensors").write_bytes(b"of a step that is taken again")
    trained(tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def average(model, out):
    """Run `fewstep average` and return what it ended with: None, or its message."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(["average", str(model), "--width", "0.07", "--out", str(out)])
    return ended.value.code or None


def test_an_average_of_any_width_is_a_model(tmp_path, capsys):
    model = tmp_path / "model"
    save_model(model, trained(model).model)
    same = averaged(model, 0.1)
    last = load_file(model / power_averages.FOLDER / "00000024.safetensors")
    for name, weight in same.named_parameters():
        torch.testing.assert_close(weight.detach(), last[f"0.1/{name}"], atol=1e-6, rtol=0)
    assert average(model, tmp_path / "other") is None
    assert capsys.readouterr().out == f"Model: {tmp_path / 'other'}\n"
    other = load_model(tmp_path / "other")
    assert other.config == same.config
    assert not torch.equal(*(torch.cat([p.flatten() for p in m.parameters()]) for m in (same, other)))


def test_an_average_replaces_nothing_and_is_whole_or_not_there(tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    save_model(model, student())
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    assert "exists; give the name of a new folder, or remove it first" in average(model, model)
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert "holds no averages" in average(model, out)
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_reported_and_leaves_no_average(tmp_path, room):
    model, out = tmp_path / "model", tmp_path / "out"
    save_model(model, trained(model).model)
    room(1000)
    assert average(model, out) == f"{out} can't be written: File too large"
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]


def test_averages_that_can_not_be_made_are_refused(tmp_path):
    save_model(tmp_path, student())
    with pytest.raises(UserError, match=r"holds no averages to combine; train it with widths"):
        averaged(tmp_path, 0.1)
    with pytest.raises(UserError, match=r"above 0 and up to 0\.28, got 0\.5"):
        averaged(tmp_path, 0.5)
    with pytest.raises(UserError, match="widths must be different numbers"):
        replace(SETTINGS, widths=(0.1, 0.1))
    with pytest.raises(UserError, match="snapshots must be 1 or more"):
        replace(SETTINGS, snapshots=0)
    power_averages.save(tmp_path / power_averages.FOLDER / "2.safetensors", {0.1: student().state_dict()})
    with pytest.raises(
        UserError, match=r"averages of the width 0\.1 alone; for others, train with two widths"
    ):
        averaged(tmp_path, 0.05)
