"""The documentation site builds strictly and offline, and its pages load nothing from other hosts."""

import os
import re
import subprocess
import sys
import typing
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fewstep import registry
from stages.settings import discovery
from stages.settings.fields import Settings

ROOT = Path(__file__).parents[1]
PLUGINS = (
    *("solvers", "samplers", "searches", "methods", "models", "couplings", "data", "exports"),
    *("foreign.formats", "foreign.adapters", "foreign.pipelines", "metrics.backends"),
)
LOADS = {"script", "link", "img", "iframe", "source", "video", "audio", "embed", "object", "use", "image"}
NOWHERE = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}  # no network is asked


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=os.environ | NOWHERE, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {str(page.relative_to(site)): page.read_text() for page in sorted(site.rglob("*.html"))}


class Loaded(HTMLParser):
    """The addresses that a page loads as it is shown; links that a reader may follow are none."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        if tag in LOADS:
            self.found += [told[name] for name in ("src", "href", "data", "srcset") if told.get(name)]
        self.found += re.findall(r"url\(([^)]*)\)", told.get("style") or "")


def elsewhere(addresses):
    return [address for address in addresses if re.match(r"['\"]?(\w+:)?//", address)]


def test_pages_load_nothing_from_other_hosts(pages):
    assert elsewhere(Loaded('<script src="https://unpkg.com/mermaid"></script>').found)
    assert not {name: found for name, text in pages.items() if (found := elsewhere(Loaded(text).found))}


def test_styles_load_nothing_from_other_hosts(site, pages):
    sheets = {str(file): file.read_text() for file in site.rglob("*.css")} | pages
    inside = {name: re.findall(r"(?:url\(|@import )\s*([^);]*)", text) for name, text in sheets.items()}
    assert not {name: found for name, addresses in inside.items() if (found := elsewhere(addresses))}


def test_no_page_has_a_diagram_for_which_the_theme_fetches_a_program(pages):
    assert not [
        name for name, text in pages.items() if 'class="mermaid"' in text or "language-mermaid" in text
    ]


def test_pictures_of_the_pages_are_whole(site, pages):
    for name, text in pages.items():
        for address in re.findall(r'<img[^>]* src="([^"]+)"', text):
            file = (site / name).parent / address
            assert file.read_bytes()[:4] in (b"\x89PNG", b"<svg"), f"{name}: {address}"


@pytest.mark.parametrize("script", sorted(ROOT.glob("docs/examples/*.py")), ids=lambda script: script.stem)
def test_scripts_of_the_examples_are_pages(script, site, pages):
    page = pages[f"examples/{script.stem}.html"]
    headings = re.findall(r"^# ## (.*)$", script.read_text(), re.M)
    assert headings
    assert all(heading in page for heading in headings)
    assert (site / "examples" / script.name).read_bytes() == script.read_bytes()
    assert f'href="{script.name}"' in page
    assert f'examples/{script.stem}.html"' in pages["index.html"]  # a link to the script leads to its page


@pytest.mark.parametrize("package", PLUGINS)
def test_the_reference_has_every_plugin(package, pages):
    reference = "".join(text for name, text in pages.items() if name.startswith("api/"))
    names = registry.available(f"fewstep.{package}")
    assert names
    assert not [name for name in names if f'id="fewstep.{package}.{name}"' not in reference]


def groups(settings):
    """The Config of a stage, and the groups of settings inside it."""
    yield settings
    for field in settings.model_fields.values():
        for kind in parts(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from groups(kind)


def parts(annotation):
    """A type, and the types that it is made of."""
    yield annotation
    for inner in typing.get_args(annotation):
        yield from parts(inner)


@pytest.mark.parametrize("stage", discovery.names())
def test_the_reference_has_every_setting(stage, pages):
    page = pages["api/settings.html"]
    assert re.search(rf'<h2 id="{stage}(key)?">', page)
    for group in groups(discovery.load(stage).Config):
        place = f"{group.__module__}.{group.__qualname__}"
        assert not [name for name in group.model_fields if f'id="{place}.{name}"' not in page]
