"""The stage trains the nets on the data as people see it."""

from pathlib import Path

import pytest
import torch
from jobs import job_in

from fewstep.metrics import public
from fewstep.metrics.denoiser import MONITOR, train_denoiser
from fewstep.metrics.nets import FIRST, KINDS, load_nets, train_net
from fewstep.metrics.saved import SavedRows, as_saved, save
from fewstep.shards import write_shards
from stages import distill, nets, reflow

LABELS = torch.arange(40) % 3


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 - 1.5


def test_nets_are_those_of_the_library_and_the_first_is_tried_on_held_out_data(tmp_path, pictures):
    facts = {"pixels": True, "classes": 3}
    for split, count in (("train", 30), ("held_out", 10)):
        part, labels = pictures[:count], LABELS[:count]
        fields = lambda a, b, p=part, k=labels: {"data": p[a:b], "label": k[a:b]}  # noqa: E731
        write_shards(tmp_path / "prepared" / split, count, 30, fields, facts=facts)
    job = job_in(tmp_path, "nets")
    nets.run(nets.Config(metric={"steps": 2}, monitor={"steps": 2}), job)
    data = as_saved(pictures[:30])
    asked = {"pixels": True, "steps": 2, "clusters": 10, "seed": 0}
    alone = {kind.name: train_net(kind, data, LABELS[:30], **asked) for kind in KINDS}
    assert job.facts["classifier_accuracy"] == alone[FIRST].accuracy(data[:10], LABELS[:10])
    alone[MONITOR] = train_denoiser(data, pixels=True, steps=2, seed=0)
    for name, net in alone.items():
        assert net.digest in (job.out / f"{name}.json").read_text()
    assert sorted(file.name for file in job.out.iterdir()) == sorted(
        f"{name}{end}" for name in alone for end in (".json", ".safetensors")
    )


@pytest.mark.parametrize(
    ("shape", "public_features", "there"),
    [
        ((3, 16, 16), True, True),
        ((3, 16, 16), False, False),
        ((1, 16, 16), True, False),
        ((3, 8, 8), True, False),
    ],
)
def test_the_public_net_measures_colour_images_of_16_pixels_alone(tmp_path, shape, public_features, there):
    pictures = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for split in ("train", "held_out"):
        facts = {"pixels": True, "classes": 1}
        write_shards(tmp_path / "prepared" / split, 20, 20, lambda a, b: {"data": pictures[a:b]}, facts=facts)
    job = job_in(tmp_path, "nets")
    metric = {"steps": 2, "clusters": 2, "public_features": public_features}
    nets.run(nets.Config(metric=metric, monitor={"steps": 2}), job)
    assert (public.NAME in load_nets(job.out)) == there


def test_images_on_disk_are_those_that_a_file_would_hold(tmp_path, pictures):
    stored = save(pictures, tmp_path / "images.npy")
    assert stored == SavedRows(tmp_path / "images.npy")
    assert stored.shape == pictures.shape
    some = torch.tensor([3, 0, 39])
    assert torch.equal(stored[some], as_saved(pictures)[some])


def test_a_full_disk_is_an_error_that_the_stage_can_tell(pictures):
    if not (device := Path("/dev/full")).exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        save(pictures, device)


@pytest.mark.parametrize(
    ("changed", "reads"),
    [
        ({}, False),
        ({"monitor": {}}, True),
        ({"method": {"name": "endpoint", "feature_weight": 1.0}}, True),
    ],
)
def test_only_stages_with_a_monitor_or_feature_losses_depend_on_the_nets(changed, reads):
    settings = {"method": "dmd", "init": "a", "teacher": "a", "train_on": "prepare", "nfe": 2}
    config = distill.Config.model_validate(settings | {"train": {"steps": 1}} | changed)
    assert ("nets" in distill.inputs(config, "b")) == reads


def test_a_reflow_reads_the_nets_for_its_features_alone():
    for weight in (0.0, 1.0):
        method = {"name": "reflow", "feature_weight": weight}
        config = reflow.Config.model_validate({"init": "a", "method": method, "train": {"steps": 1}})
        assert ("nets" in reflow.inputs(config, "b")) == bool(weight)
