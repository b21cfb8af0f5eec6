"""What a training reads ahead: in order, in one thread, with errors and stalls where they belong."""

import threading
from contextlib import nullcontext

import pytest
import torch
from recorded import FixedBatches, Recorder, run

from fewstep.errors import UserError
from fewstep.methods.flow_matching import FlowMatching
from fewstep.settings import TrainSettings
from fewstep.training import reader as reader_module
from fewstep.training.networks import pinned
from fewstep.training.reader import AHEAD, Reader

SETTINGS = TrainSettings(steps=8, batch=4)


class Reads:
    """Answers a step with its number, and knows who asked for what; waits for `go` from step `slow` on."""

    def __init__(self, slow=10**9):
        self.slow, self.steps, self.threads, self.go = slow, [], set(), threading.Event()

    def __call__(self, step):
        self.threads.add(threading.current_thread())
        if step >= self.slow:
            assert self.go.wait(30)
        self.steps.append(step)
        return step


def take(reader, step):
    """Take a step as the training loop does."""
    read = reader[step]
    reader.go_on()
    return read


def test_steps_are_answered_in_any_order_and_read_once_in_one_thread():
    reads = Reads()
    with Reader(reads, 10, print) as reader:
        assert [take(reader, step) for step in range(10)] == list(range(10))
        assert reads.steps == list(range(10))  # and none after the last
        assert [take(reader, step) for step in (7, 2, 9, 2)] == [7, 2, 9, 2]
    (thread,) = reads.threads
    assert thread is not threading.main_thread()
    assert not thread.is_alive()


def test_the_next_steps_are_read_while_one_is_taken():
    with Reader(reads := Reads(), 10, print) as reader:
        assert reader[3] == 3
        assert reads.steps == [3]  # none before it is said
        reader.go_on()
        reader.go_on()
    assert reads.steps == list(range(3, 4 + AHEAD))


def test_an_error_reaches_the_step_that_it_belongs_to():
    def read(step):
        if step == 2:
            raise UserError("shard 7 is missing")
        return step

    with Reader(read, 10, print) as reader:
        assert [take(reader, 0), take(reader, 1)] == [0, 1]
        with pytest.raises(UserError, match="shard 7 is missing"):
            reader[2]
        assert [take(reader, 3), take(reader, 1)] == [3, 1]


def test_a_store_that_stalls_is_reported_and_the_training_goes_on_when_it_answers(monkeypatch):
    monkeypatch.setattr(reader_module, "STALLED", 0.01)
    reads, told = Reads(slow=1), []

    def say(text):
        told.append(text)
        reads.go.set()

    with Reader(reads, 2, say) as reader:
        assert [take(reader, 0), take(reader, 1)] == [0, 1]
    assert told[0].startswith("step 1 has waited 0.01 s for its batch; is the storage of samples slow")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, UserError("lost")])
def test_a_stalled_store_does_not_delay_the_end_of_a_training(monkeypatch, error):
    monkeypatch.setattr(reader_module, "CLOSING", 0.01)
    reads = Reads(slow=1)
    try:
        with Reader(reads, 10, print) as reader:
            assert take(reader, 0) == 0
            if error:
                raise error
    except (KeyboardInterrupt, UserError):
        pass
    (thread,) = reads.threads
    assert thread.daemon  # so it holds up no end of the process either
    assert reads.steps == [0]
    reads.go.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_training_that_fails_or_ends_leaves_no_thread(tmp_path):
    class Lost(FixedBatches):
        def __getitem__(self, step):
            if step == 5:
                raise UserError("shard 7 is missing")
            return super().__getitem__(step)

    recorder = Recorder()
    with pytest.raises(UserError, match=r"^shard 7 is missing$"):
        run(tmp_path, settings=SETTINGS, batches=Lost(4), progress=recorder)
    assert recorder.advanced == 5  # the steps before it were taken
    run(tmp_path, settings=SETTINGS, batches=FixedBatches(4))
    assert "reader" not in [thread.name for thread in threading.enumerate()]


def test_batches_are_prepared_beside_the_steps(tmp_path):
    threads = []

    class Watching(FlowMatching):
        def prepare_batch(self, batch, keys, law):
            threads.append((threading.current_thread().name, int(keys[0, 1]) // 4))
            return super().prepare_batch(batch, keys, law)

    run(tmp_path, method=Watching(), settings=SETTINGS)
    assert [step for name, step in threads if name == "reader"] == list(range(SETTINGS.steps))


def test_only_a_gpu_wants_batches_in_pinned_memory_of_its_own_device(monkeypatch):
    devices, batch = [], {"data": torch.zeros(3)}
    monkeypatch.setattr(torch.cuda, "device", lambda device: devices.append(device) or nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    assert pinned(batch, torch.device("cpu")) is batch
    gpu = torch.device("cuda", 1)
    assert torch.equal(pinned(batch, gpu)["data"], torch.ones(3))
    assert devices == [gpu]
