"""The newest of the records that a child process appends to a file, one line of JSON each."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def followed(file: Path, handle: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `handle` with the newest record in `file` while the block runs, each second, in another thread."""
    over, read = threading.Event(), 0

    def look() -> None:
        nonlocal read
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(read)
                whole = stream.read().rpartition(b"\n")[0]  # the last line may be half written
            if whole:
                read += len(whole) + 1
                handle(json.loads(whole.splitlines()[-1]))

    def follow() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            look()
        look()

    # Prefect finds the task that a thread works for by its context.
    thread = threading.Thread(target=copy_context().run, args=[follow], daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
