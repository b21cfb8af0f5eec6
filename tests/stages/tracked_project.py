"""A project whose runs are tracked, and sent from the process of the tests."""

import os
import shutil
from pathlib import Path
from unittest import mock

from fake_project import Project
from filelock import FileLock

from stages.tracking import outboxes, sender, tracking


class TrackedProject(Project):
    """What its stages record waits until a test sends it.

    A sender of a stage's own takes seconds to import mlflow. Those that stages start here find that one is at
    work, and end.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        super().__init__(folder)
        del self.environment["FEWSTEP_TRACKING"]
        self.outbox = outboxes.folder(folder)
        self.outbox.mkdir(parents=True)
        shutil.copy(database, folder / ".fewstep/mlflow.db")
        self.senders: FileLock
        self.record_at()

    def record_at(self, **variables: str) -> None:
        """Let what runs from now on be recorded as these variables say."""
        self.environment |= variables
        with mock.patch.dict(os.environ, self.environment, clear=True):
            self.senders = sender.lock(self.outbox)
        self.senders.acquire(timeout=0)

    def send(self) -> None:
        """Send all that waits, as a sender would."""
        with mock.patch.dict(os.environ, tracking.SHORT_TIMEOUTS | self.environment, clear=True):
            sender.serve(self.folder, self.outbox)
