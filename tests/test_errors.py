"""What errors of others say, in short."""

import pytest

from fewstep.errors import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("\n  no such device \nframe #0: ..."), "no such device"),
        (MemoryError(), "MemoryError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_the_first_line_of_an_error_is_what_it_says_or_its_kind(error, told):
    assert first_line(error) == told
