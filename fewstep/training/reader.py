"""Reader: what the next steps of a training need, read and prepared in a thread while a step is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

AHEAD = 2  # steps
STALLED = 60.0  # seconds of waiting after which a message says so
CLOSING = 5.0  # seconds at most for what the thread still does when nobody wants it any more

Read = TypeVar("Read")


class Reader(Generic[Read]):
    """What `read` returns of any step; that of the next steps is read ahead when `go_on` says so.

    Reading is in part work in Python, which one thread does at a time: so who takes the steps says when it
    begins. A context: at its end the thread is given up, whatever it is doing. It dies with the process.

    Args:
        read: returns what a step needs; called in the thread alone, so never twice at a time.
        stop: the step after the last.
        say: told when a step has waited long.
    """

    def __init__(self, read: Callable[[int], Read], stop: int, say: Callable[[str], None]) -> None:
        self.read, self.stop, self.say = read, stop, say
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._answers: SimpleQueue[Read | _Failure] = SimpleQueue()
        self._coming: deque[int] = deque()
        """The steps that were asked for, whose answers nobody has had."""
        self._last = -1
        """The step that was answered last."""
        self._thread = Thread(target=self._answer, name="reader", daemon=True)

    def __enter__(self) -> Reader[Read]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.put(None)
        self._thread.join(CLOSING)

    def __getitem__(self, step: int) -> Read:
        """Return what a step needs.

        Raises:
            Exception: what `read` raised for this step.
        """
        while self._coming and self._coming[0] != step:
            self._next()
        if not self._coming:
            self._ask(step)
        self._last = step
        answer = self._next()
        if isinstance(answer, _Failure):
            raise answer.error
        return answer

    def go_on(self) -> None:
        """Have the steps read that come after the one that was answered last."""
        first = self._coming[-1] + 1 if self._coming else self._last + 1
        for number in range(first, min(self._last + AHEAD + 1, self.stop)):
            self._ask(number)

    def _ask(self, step: int) -> None:
        """Have a step read."""
        self._asked.put(step)
        self._coming.append(step)

    def _next(self) -> Read | _Failure:
        """Return the answer that was asked for first."""
        step, waited = self._coming.popleft(), 0.0
        while True:
            try:
                return self._answers.get(timeout=STALLED)
            except Empty:
                waited += STALLED
                self.say(
                    f"step {step} has waited {waited:g} s for its batch; is the storage of samples slow or "
                    "down? The training goes on when it answers"
                )

    def _answer(self) -> None:
        """Read, in the thread, what is asked for."""
        while (step := self._asked.get()) is not None:
            try:
                self._answers.put(self.read(step))
            except BaseException as error:  # for the step that wants it
                self._answers.put(_Failure(error))


class _Failure:
    """That something could not be read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
