"""The pages say what is: their Python runs, and what they name exists."""

import importlib
import re
import shlex
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from fewstep import command_line, grids
from fewstep.checkpoint import save_model
from fewstep.model import ModelConfig, build
from stages.artifacts import places
from stages.settings import checks, discovery, messages, yaml_text
from stages.settings.models import models
from stages.settings.params import Params

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|^((?: {4}[^\n]*\n)+)", re.S | re.M)
OWN_FILE = re.compile(r"# (fewstep/(\w+)/\w+\.py)\n")  # a block that starts so is the text of that file
BETWEEN_PROCESSES = {
    f"FEWSTEP_{name}" for name in ("AGAIN", "CHECKOUT", "OUTCOME_FILE", "PIPELINE", "PROGRESS_FILE")
}
KEYED = "|".join(discovery.names())

page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def python(page):
    return [text for language, text, _ in BLOCK.findall(page.read_text()) if language == "python"]


def spans(page):
    """What a page shows as code that is not Python."""
    text = page.read_text()
    blocks = [plain or indented for language, plain, indented in BLOCK.findall(text) if language != "python"]
    return blocks + re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def settings(page):
    """The blocks that are sections of params.yaml."""
    found = BLOCK.findall(page.read_text())
    blocks = [
        dedent(indented or text) for language, text, indented in found if indented or language == "yaml"
    ]
    return [text for text in blocks if re.match(rf"({KEYED}):", text)]


def laid_over(old, new):
    """Settings with others in their place, or beside them.

    Nothing stays of a section that becomes `{}`, nor of the options of another `name`.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)) or not new or "name" in new:
        return new
    return old | {name: laid_over(old.get(name), value) for name, value in new.items()}


def untrained_models(folder):
    """Stand in for the models of the chain, so that a page may load and sample them."""
    config = ModelConfig(architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(1, 8, 8))
    params = Params.read(ROOT / "params.yaml")
    for name in models(params):
        nfe = params.config("distill", name).nfe if name in params.keys("distill") else "any"
        grid = None if nfe == "any" else grids.uniform(nfe)
        save_model(folder / name, build(replace(config, grid=grid), seed=0))


def add_own_files(page, folder, monkeypatch):
    """Let fewstep find the plug-ins that a page shows."""
    for text in python(page):
        if own := OWN_FILE.match(text):
            file, package = folder / own[1], importlib.import_module(f"fewstep.{own[2]}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
            monkeypatch.setattr(package.__spec__, "submodule_search_locations", package.__path__)


@pytest.mark.parametrize("page", [page for page in PAGES if python(page)], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    untrained_models(tmp_path / "artifacts" / "models")
    add_own_files(page, tmp_path, monkeypatch)
    torch.manual_seed(0)
    names = {"__name__": page.stem}
    for text in python(page):
        if not OWN_FILE.match(text):
            exec(compile(text, f"{page.name}, Python", "exec"), names)
    for name in [name for name in names if name.startswith("test_")]:
        names[name]()


@page
def test_make_targets_exist(page):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    named = [name for span in spans(page) for name in re.findall(r"\bmake (\w+)", span)]
    assert set(named) <= set(targets)


def commands(page):
    """The commands of `fewstep` that a page shows, as lists of words."""
    shown = re.findall(r"(?:^|[\n&|]) *(?:[A-Z_]+=\S+ +)*fewstep +([a-z][^\n&|]*)", "\n".join(spans(page)))
    return [shlex.split(command, comments=True) for command in shown]


@page
def test_commands_of_fewstep_exist(page):
    """The command line itself parses them; a bare name is a mention."""
    app = command_line.app_of(ROOT)
    for words in commands(page):
        assert app[words[0]]
        if words[1:]:
            app.parse_args(words, exit_on_error=False, print_error=False)


def test_every_command_of_fewstep_is_shown():
    shown = {words[0] for page in PAGES for words in commands(page)}
    assert {name for name in command_line.app_of(ROOT) if not name.startswith("-")} <= shown


@page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).exists()]
    assert not broken


@page
def test_files_exist(page):
    made = {own[1] for text in python(page) if (own := OWN_FILE.match(text))}
    named = {
        span for span in spans(page) if re.fullmatch(r"(fewstep|stages|flows|tests|docs)/[\w./-]*", span)
    }
    assert not [name for name in named - made if not (ROOT / name).exists()]


@page
def test_settings_exist(page):
    """Of `couple.round1.pairs`, any key will do: params.yaml is the user's to change."""
    wrong = []
    for stage, rest in re.findall(rf"(?<![\w./-])({KEYED})((?:\.[\w-]+)+)", "\n".join(spans(page))):
        path = rest.split(".")[1:]
        *above, name = path[1:] if discovery.keyed(stage) else path or [""]
        known = messages.names_at(discovery.load(stage).Config, tuple(above))
        if known and name not in known:
            wrong.append(stage + rest)
    assert not wrong


@pytest.mark.parametrize("page", [page for page in PAGES if settings(page)], ids=lambda page: page.stem)
def test_blocks_of_settings_pass_the_check_when_they_are_laid_over_the_demos(page, tmp_path, monkeypatch):
    add_own_files(page, tmp_path, monkeypatch)
    for text in settings(page):
        checks.check(
            Params(laid_over(Params.read(ROOT / "params.yaml").raw, yaml_text.read(text, page.name)))
        )


def test_variables_are_described():
    code = "".join(
        file.read_text() for layer in ("fewstep", "stages", "flows") for file in ROOT.glob(f"{layer}/**/*.py")
    )
    read = set(re.findall(r"\bFEWSTEP_[A-Z_]*[A-Z]\b", code))
    described = set(re.findall(r"^\| (`FEWSTEP_.*?) \|", (ROOT / "docs" / "operations.md").read_text(), re.M))
    assert read - set(re.findall(r"FEWSTEP_\w+", "".join(described))) <= BETWEEN_PROCESSES


def test_the_graph_is_that_of_the_stages():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("architecture", "What runs after what?"), re.M)
    named = {(above, stage) for stage, inputs in rows for above in re.findall(r"`(\w+)`", inputs)}
    assert {stage for stage, _ in rows} == set(discovery.names())
    params = Params.read(ROOT / "params.yaml")
    makers = params.outputs()
    for stage in discovery.names():
        for key in params.keys(stage):
            paths = params.inputs(stage, key).values()
            assert {(makers[path][0], stage) for path in paths if path in makers} <= named


def test_the_readme_quotes_the_worst_seeds_of_the_table_of_students():
    row = r"^\| ([\w-]+) \| (\d+) \| ([\d.]+) ± [\d.]+ \| ([\d.]+) ± [\d.]+ \| ([\d.]+) ± [\d.]+ \|"
    table = re.findall(row, section("choose-a-method", "How good are they?"), re.M)
    worst = {(name, nfe): max(seeds, key=float) for name, nfe, *seeds in table}
    first = re.findall(
        r"^\| `([\w-]+)` .*\| (\d+) \| \**([\d.]+)\** \|$", (ROOT / "README.md").read_text(), re.M
    )
    quoted = {(name, nfe): number for name, nfe, number in first}
    assert quoted
    assert quoted == {row: worst[row] for row in quoted}


def test_every_place_of_the_persistent_state_is_described():
    described = set(re.findall(r"`(\.fewstep/[\w.-]+)`", section("operations", "Where is everything?")))
    assert {str(place) for place in vars(places).values() if isinstance(place, Path)} - described == {
        ".fewstep"
    }


@pytest.mark.parametrize("layer", ["stages", "flows"])
def test_every_subpackage_is_described(layer):
    described = set(
        re.findall(rf"^\| `{layer}/(\w+)/` \|", section("architecture", "Which subpackage knows what?"), re.M)
    )
    assert described == {file.parent.name for file in ROOT.glob(f"{layer}/*/__init__.py")}


def test_the_map_names_every_file_and_package_of_the_library():
    told = section("architecture", "Where is what?").split("    stages/ ")[0]
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "fewstep").iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    assert there - set(told.split()) == set()


def section(page, heading):
    """Return the text below a heading, up to the next one of its level."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
