"""Several processes compute what one would with the whole batch."""

import shutil

import forked
import pytest
import torch
import torch.distributed as dist
import trainings
from recorded import Recorder, run, student
from safetensors.torch import load_file

from fewstep import distributed
from fewstep.checkpoint import load_model, model_digest, save_model
from fewstep.settings import TrainSettings

SETTINGS = TrainSettings(steps=30, batch=24)


def two_processes(folder, *facts, work=trainings.shared, ranks=2, **environment):
    """Have two or more processes work, as torchrun starts them; return exit codes and error texts."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    common = {
        "FEWSTEP_CHECKPOINT_SECONDS": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # of the starter, which alone can have a port and keep it
        "WORLD_SIZE": str(ranks),
        **environment,
    }
    errors = [folder / f"errors{rank}" for rank in range(ranks)]
    children = [
        forked.begin(work, folder, *facts, said=said, **common, RANK=str(rank))
        for rank, said in enumerate(errors)
    ]
    try:
        codes = [forked.end_of(child) for child in children]
    finally:
        for child in children:
            child.kill()
    return codes, [file.read_text() for file in errors]


def test_no_process_continues_before_all_have_joined(tmp_path):
    codes, errors = two_processes(tmp_path, work=trainings.joined_late)
    assert codes == [0, 0], errors


def test_gradients_are_exchanged_while_others_are_made_and_are_means(tmp_path):
    codes, errors = two_processes(tmp_path, work=trainings.exchanged)
    assert codes == [0, 0], errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What two processes trained without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    codes, errors = two_processes(folder)
    assert codes == [0, 0], errors
    return folder


def test_two_processes_equal_one_with_the_whole_batch(whole, tmp_path):
    alone = run(tmp_path, settings=SETTINGS)
    models = [load_model(whole / f"model{rank}") for rank in (0, 1)]
    for mine, first, second in zip(alone.model.parameters(), *(m.parameters() for m in models), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(mine, first, atol=1e-5, rtol=0)


def test_two_processes_resume_together(whole, tmp_path):
    assert two_processes(tmp_path, "shared", 17)[0] == [3, 3]
    assert int(load_file(tmp_path / "state" / "train_state.safetensors")["step"]) == 17
    codes, errors = two_processes(tmp_path)
    assert codes == [0, 0], errors
    assert model_digest(tmp_path / "model0") == model_digest(whole / "model0")


def close(folder, alone):
    """Assert that both models of two processes are one, and but for rounding that of one process."""
    models = [load_model(folder / f"model{rank}") for rank in (0, 1)]
    for mine, first, second in zip(alone.model.parameters(), *(m.parameters() for m in models), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(mine, first, atol=1e-5, rtol=0)


def test_sharded_weights_train_as_whole_ones_and_go_on_in_any_number_of_processes(tmp_path):
    alone, file = run(tmp_path / "alone", settings=SETTINGS), "train_state.safetensors"
    for name in ("two", "whole"):
        (tmp_path / name).mkdir()
    assert two_processes(tmp_path / "two", "shared", 17, FEWSTEP_SHARD="on")[0] == [3, 3]
    state = tmp_path / "two" / "state"
    assert int(load_file(state / file)["step"]) == 17
    shapes = [{n: t.shape for n, t in load_file(f / file).items()} for f in (state, tmp_path / "alone")]
    assert shapes[0] == shapes[1]
    shutil.copytree(state, tmp_path / "one")
    shutil.copytree(state, tmp_path / "whole" / "state")
    codes, errors = two_processes(tmp_path / "two", FEWSTEP_SHARD="on", FEWSTEP_RECOMPUTE="on")
    assert codes == [0, 0], errors
    close(tmp_path / "two", alone)
    recorder = Recorder()
    on = run(tmp_path / "one", settings=SETTINGS, progress=recorder)
    assert recorder.started == [("train", 30, 17)]
    for mine, other in zip(alone.model.parameters(), on.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    codes, errors = two_processes(tmp_path / "whole", FEWSTEP_SHARD="off")
    assert codes == [0, 0], errors
    close(tmp_path / "whole", alone)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_a_state_goes_on_on_more_processes_and_on_fewer(tmp_path, before, after):
    alone = run(tmp_path / "alone", settings=SETTINGS)
    stopped, _ = two_processes(tmp_path, "shared", 17, ranks=before, FEWSTEP_SHARD="on")
    assert stopped == [3] * before
    codes, errors = two_processes(tmp_path, ranks=after, FEWSTEP_SHARD="on", FEWSTEP_OFFLOAD="on")
    assert codes == [0] * after, errors
    close(tmp_path, alone)


def test_several_networks_and_passes_exchange_their_gradients(tmp_path):
    alone = trainings.of_method(tmp_path / "alone", "sim")
    codes, errors = two_processes(
        tmp_path, "sim", work=trainings.shared_of_method, FEWSTEP_MICRO_BATCH="3", FEWSTEP_RECOMPUTE="on"
    )
    assert codes == [0, 0], errors
    close(tmp_path, alone)


@pytest.mark.parametrize("method", trainings.METHODS)
def test_all_networks_of_a_method_are_sharded_and_train_as_whole_ones(tmp_path, method):
    alone = trainings.of_method(tmp_path / "alone", method)
    codes, errors = two_processes(
        tmp_path, method, work=trainings.shared_of_method, FEWSTEP_SHARD="on", FEWSTEP_MICRO_BATCH="3"
    )
    assert codes == [0, 0], errors
    close(tmp_path, alone)


def test_two_processes_train_flow_maps_and_their_like_as_one_does(tmp_path):
    codes, errors = two_processes(tmp_path, work=trainings.shared_of_variants)
    assert codes == [0, 0], errors
    for name in trainings.TOGETHER:
        close(tmp_path / name, trainings.of_method(tmp_path / name / "alone", name))


def test_two_processes_train_an_adapter_as_one_does(tmp_path):
    alone = trainings.of_adapter(tmp_path / "alone")
    codes, errors = two_processes(tmp_path, work=trainings.shared_of_adapter, FEWSTEP_MICRO_BATCH="3")
    assert codes == [0, 0], errors
    save_model(tmp_path / "model", alone.model)
    mine, first, second = (load_model(tmp_path / name) for name in ("model", "model0", "model1"))
    for weights in zip(mine.parameters(), first.parameters(), second.parameters(), strict=True):
        assert torch.equal(weights[1], weights[2])
        torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0)
    assert model_digest(tmp_path / "model0") == model_digest(tmp_path / "model1")


def test_the_first_of_two_processes_looks_and_both_end_with_what_it_picked(tmp_path):
    codes, errors = two_processes(tmp_path, work=trainings.shared_and_watched)
    assert codes == [0, 0], errors
    assert model_digest(tmp_path / "model0") == model_digest(tmp_path / "model1")
    assert int(load_file(tmp_path / "state" / "train_state.safetensors")["step"]) == 24


def test_processes_that_see_different_states_refuse_to_start(tmp_path):
    run(tmp_path / "state0", settings=SETTINGS)  # rank 1 looks into state1
    codes, errors = two_processes(tmp_path, "own")
    assert codes == [1, 1]
    assert all("do not resume at the same step" in error for error in errors)


@pytest.mark.parametrize(
    ("asked", "local_rank", "got"),
    [("cuda:1", "0", "cuda:1"), ("cuda", "2", "cuda:2"), ("cuda", None, "cuda:0")],
)
def test_a_gpu_that_is_named_is_the_one_that_is_taken(monkeypatch, asked, local_rank, got):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert distributed.join(asked) == torch.device(got)
    assert taken == [torch.device(got)]


@pytest.mark.parametrize("most", [1, 5, 100])
def test_what_is_exchanged_at_a_time_is_in_order_and_not_too_much(monkeypatch, most):
    monkeypatch.setattr(distributed, "BUCKET", most)
    tensors = [torch.zeros(size) for size in (3, 2, 4, 1, 1)]
    buckets = list(distributed.buckets(tensors))
    assert [id(tensor) for bucket in buckets for tensor in bucket] == [id(tensor) for tensor in tensors]
    assert [len(bucket) for bucket in buckets] == {1: [1] * 5, 5: [2, 2, 1], 100: [5]}[most]


def test_in_one_process_exchanges_change_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.join("cpu") == torch.device("cpu")
    assert (distributed.rank(), distributed.ranks()) == (0, 1)
    tensor = torch.ones(2)
    distributed.average([tensor])
    assert tensor.tolist() == [1, 1]
    distributed.leave()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_to_what_the_cpu_does(tmp_path):
    cpu = run(tmp_path / "cpu", settings=SETTINGS)
    gpu = run(tmp_path / "gpu", settings=SETTINGS, model=student(), device="cuda")
    assert gpu.held_out_loss == pytest.approx(cpu.held_out_loss, rel=1e-3)
