"""Settings of the benchmarks that train both sides of a claim: a mistake is found here, not after hours."""

import shutil

import pytest
from workspace import CHECKOUT

from benchmarks.claims_on_images import CLAIMS, CONVERTED
from fewstep.checkpoint import save_model
from fewstep.model import ModelConfig, build
from flows.workspaces.variant import Variant


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("source", ["digits", "patches"])
def test_the_settings_of_a_claim_pass_the_check(name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(CHECKOUT / "params.yaml", tmp_path)
    (tmp_path / CONVERTED).mkdir(parents=True)
    network = {"name": "unet", "width": 16, "multipliers": [1, 2]}
    save_model(tmp_path / CONVERTED, build(ModelConfig(architecture=network, shape=(1, 8, 8)), seed=0))
    Variant.of(tmp_path, {**CLAIMS[name](), "prepare.source": source, "seed": 1})
