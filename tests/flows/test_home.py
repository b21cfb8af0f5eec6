"""Prefect keeps its records inside the checkout, also in one where nothing has been run yet."""

import os
import subprocess
import sys


def test_importing_flows_makes_prefects_home(tmp_path):
    home = tmp_path / "fresh" / "prefect"
    environment = os.environ | {"PREFECT_HOME": str(home)}
    subprocess.run([sys.executable, "-c", "import flows"], env=environment, check=True)
    assert home.is_dir()
