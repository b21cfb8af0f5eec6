import os

import pytest

from fewstep.errors import UserError
from flows import _holding


def test_a_second_run_is_refused_and_told_who_holds_the_workspace(tmp_path):
    lock = _holding.lock_of(tmp_path)
    with _holding.held(lock, "calm-fox", "123"):
        with (
            pytest.raises(
                UserError, match=rf"flow run calm-fox \(123, process {os.getpid()} on .+\) is at work"
            ),
            _holding.held(lock, "other", "456"),
        ):
            pass
        assert _holding.read_note(lock)["name"] == "calm-fox"  # the refused one took nothing away
    with _holding.held(lock, "other", "456"):
        pass
    assert _holding.read_note(lock) is None


def test_a_run_that_fails_lets_go(tmp_path):
    lock = _holding.lock_of(tmp_path)
    with pytest.raises(ZeroDivisionError), _holding.held(lock, "a", "1"):
        raise ZeroDivisionError
    with _holding.held(lock, "b", "2"):
        pass
