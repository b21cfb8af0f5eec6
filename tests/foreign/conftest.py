import pytest

from fewstep import declaration


@pytest.fixture
def at_one_time(monkeypatch):
    """The check of a declaration at one of its five times: enough to fail, or to show that it works."""
    monkeypatch.setattr(declaration, "TIMES", (0.5,))
