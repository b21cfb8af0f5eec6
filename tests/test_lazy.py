"""Modules that load at their first use: which thread they are lazy for, what loads them, what is refused."""

import builtins
import copy
import importlib
import sys
import threading

import pytest

from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package with a module in it, and return the folder."""
    (tmp_path / "lazily/inner").mkdir(parents=True)
    (tmp_path / "lazily/__init__.py").write_text("import sys\n")
    (tmp_path / "lazily/inner/__init__.py").write_text("")
    (tmp_path / "lazily/inner/leaf.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazily"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import lazily.inner.leaf", "lazily.inner.leaf"),
        ("import lazily.inner.leaf as leaf", "leaf"),
        ("from lazily.inner import leaf", "leaf"),
        ("from lazily import inner as i", "i"),
    ],
)
def test_a_module_loads_when_an_attribute_is_asked_for(package, statement, name):
    names = {"lazy_imports": lazy_imports}
    exec(f"with lazy_imports():\n    {statement}", names)
    assert not {"lazily", "lazily.inner", "lazily.inner.leaf"} & set(sys.modules)
    assert eval(name, names).__name__ in {"lazily.inner", "lazily.inner.leaf"}
    assert "lazily.inner" in sys.modules


def test_what_is_set_on_it_is_set_on_the_module(package):
    with lazy_imports():
        from lazily.inner import leaf
    assert leaf.value == 3
    leaf.value = 4
    assert importlib.import_module("lazily.inner.leaf").value == 4
    del leaf.value
    assert not hasattr(leaf, "value")


def test_imports_of_another_thread_stay_what_they_are():
    """Prefect sends logs in a thread that imports settings while the flow's modules load."""
    seen: dict[str, object] = {}

    def other():
        from logging import INFO

        seen["other"] = INFO

    with lazy_imports():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == {"other": 20}


def test_two_threads_that_ask_at_once_leave_nothing_behind(package):
    original, entered, seen = builtins.__import__, threading.Event(), {}

    def other():
        entered.set()
        with lazy_imports():
            import lazily.inner

        seen["module"] = lazily.inner

    with lazy_imports():
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        import lazily
    thread.join()
    assert builtins.__import__ is original
    assert "lazily" not in sys.modules
    assert lazily.sys is sys
    assert seen["module"].__name__ == "lazily.inner"


def test_a_library_that_is_missing_is_named_with_its_extra():
    with lazy_imports(brought_by("metrics", what="a monitor", library="no_such_library")):
        import no_such_library
    with pytest.raises(UserError, match=r"a monitor needs no_such_library: pip install 'fewstep\[metrics\]'"):
        _ = no_such_library.anything


def test_what_a_library_itself_lacks_is_told_as_it_is(package):
    (package / "lazily/inner/leaf.py").write_text("import no_such_library\n")
    with lazy_imports(brought_by("metrics", what="a monitor", library="lazily")):
        from lazily.inner import leaf
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = leaf.value


def test_without_a_callback_it_is_a_plain_import_error():
    with lazy_imports():
        import no_such_library
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = no_such_library.anything


def test_a_relative_import_is_refused():
    names = {"lazy_imports": lazy_imports, "__package__": "tests", "__name__": "tests.x"}
    with pytest.raises(ImportError, match="write its whole name"):
        exec("with lazy_imports():\n    from . import oracles", names)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_module(package, copied):
    with lazy_imports():
        from lazily.inner import leaf
    assert copied(leaf) is importlib.import_module("lazily.inner.leaf")
