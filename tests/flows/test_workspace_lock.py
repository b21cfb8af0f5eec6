import os

import pytest

from fewstep.errors import UserError
from flows.workspaces import workspace_lock


def test_a_second_run_is_refused_and_names_the_run_that_holds_the_workspace(tmp_path):
    lock = workspace_lock.lock_of(tmp_path)
    with workspace_lock.held(lock, "calm-fox", "123"):
        with (
            pytest.raises(
                UserError, match=rf"flow run calm-fox \(123, process {os.getpid()} on .+\) uses this"
            ),
            workspace_lock.held(lock, "other", "456"),
        ):
            pass
        assert workspace_lock.read_note(lock)["name"] == "calm-fox"  # the refused one took nothing away
    with workspace_lock.held(lock, "other", "456"):
        pass
    assert workspace_lock.read_note(lock) is None


def test_a_command_that_holds_the_workspace_is_told_as_one(tmp_path):
    lock = workspace_lock.lock_of(tmp_path)
    with workspace_lock.held(lock, "fewstep gc", None):
        assert workspace_lock.holder(lock).startswith(f"`fewstep gc` (process {os.getpid()} on ")


def test_a_run_that_fails_releases_the_workspace(tmp_path):
    lock = workspace_lock.lock_of(tmp_path)
    with pytest.raises(ZeroDivisionError), workspace_lock.held(lock, "a", "1"):
        raise ZeroDivisionError
    with workspace_lock.held(lock, "b", "2"):
        pass
