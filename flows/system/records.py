"""Records that a child process appends to a file, one line of JSON each, handed on while it runs."""

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
    """Call `handle` with each record that appears in `file` while the block runs, in another thread."""
    over, read = threading.Event(), 0

    def look() -> None:
        nonlocal read
        if file.exists():
            with file.open() as stream:
                stream.seek(read)
                while (line := stream.readline()).endswith("\n"):  # the last one may be half written
                    read += len(line.encode())
                    handle(json.loads(line))

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
