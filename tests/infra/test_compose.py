"""infra/compose.yaml and infra/Dockerfile say what containers need; none is started here."""

import re
import subprocess
import sys

import pytest
import yaml
from chain.checkout import Checkout
from composed import FILE, INFRA, VARIABLE, substitute
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from workspace import CHECKOUT

TEXT = FILE.read_text()
EXAMPLE = dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", (INFRA / "env.example").read_text(), re.M))
VALUES = {name: value or "given" for name, value in EXAMPLE.items()}
REQUIRED = {"POSTGRES_PASSWORD", "S3_USER", "S3_PASSWORD", "PREFECT_LOGIN"}
COMPOSED = yaml.safe_load(substitute(TEXT, VALUES))
SERVICES = COMPOSED["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
ENDS = {name for name, service in SERVICES.items() if service["restart"] == "on-failure"}
DOCKERFILE = (INFRA / "Dockerfile").read_text()

each = pytest.mark.parametrize("name", SERVICES)
ours = pytest.mark.parametrize("name", sorted(OURS))


def refused(file) -> str:
    """Return what the published schema of compose files has against one."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert not ended.stderr, ended.stderr
    return ended.stdout if ended.returncode else ""


def test_the_published_schema_allows_it():
    assert refused(FILE) == ""


def test_the_published_schema_would_find_a_mistake(tmp_path):
    (tmp_path / "compose.yaml").write_text(TEXT.replace("start_period:", "start_perjod:", 1))
    assert "start_perjod" in refused(tmp_path / "compose.yaml")


def test_the_example_names_each_variable():
    assert set(EXAMPLE) == {found[1] for found in VARIABLE.finditer(TEXT)} | {
        "PREFECT_ADDRESS",
        "MLFLOW_ADDRESS",
    }


def test_what_has_no_default_is_asked_for_by_name():
    required = {found[1]: found[3] for found in VARIABLE.finditer(TEXT) if found[2] != "-"}
    assert set(required) == REQUIRED
    assert all(message.startswith(f"set {name} to ") for name, message in required.items())


@each
def test_no_secret_is_in_the_compose_file(name):
    values = {variable: f"<{variable}>" for variable in EXAMPLE}
    environment = yaml.safe_load(substitute(TEXT, values))["services"][name].get("environment", {})
    for variable, value in environment.items():
        if re.search(r"PASSWORD|SECRET|AUTH|ACCESS_KEY|//[^/]*@", f"{variable}={value}"):
            assert re.search(f"<({'|'.join(REQUIRED)})>", value)


@each
def test_every_long_running_service_has_a_health_check_and_restarts(name):
    service = SERVICES[name]
    assert service["restart"] == ("on-failure" if name in ENDS else "unless-stopped")
    assert ("healthcheck" in service) == (name not in ENDS)


@each
def test_services_wait_for_health_or_for_completion(name):
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        ends = wait["condition"] == "service_completed_successfully"
        assert ends == (other in ENDS)
        assert ends or wait["condition"] == "service_healthy"


@each
def test_versions_are_fixed(name):
    service = SERVICES[name]
    assert name in OURS or re.search(r":(\d+\.\d+|RELEASE\.\d{4})", service["image"])


@each
def test_ports_are_open_to_this_machine_alone_unless_set_otherwise(name):
    required = dict.fromkeys(REQUIRED, "given")
    service = yaml.safe_load(substitute(TEXT, required))["services"][name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_what_is_kept_is_in_a_named_volume():
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert sorted(volume for volume in mounted if volume[0] != ".") == sorted(COMPOSED["volumes"])
    assert all((INFRA / volume).exists() for volume in mounted if volume[0] == ".")


@ours
def test_telemetry_is_off_in_every_service(name):
    makefile = re.findall(
        r"^export (\w*(?:TRACK|ANALYTICS|TELEMETRY|OFFLINE)\w*) = (.*)$",
        (CHECKOUT / "Makefile").read_text(),
        re.M,
    )
    assert len(makefile) == 6
    assert dict(makefile).items() <= SERVICES[name]["environment"].items()


@ours
def test_the_image_is_built_here_from_the_lock(name):
    build = SERVICES[name]["build"]
    assert (INFRA / build["context"]).resolve() == CHECKOUT
    assert (CHECKOUT / build["dockerfile"]).samefile(INFRA / "Dockerfile")
    assert "make .venv/.locked" in DOCKERFILE  # by the rule of the Makefile, so its other targets work too


def test_the_last_commands_of_the_image_run_after_its_installation(tmp_path):
    last = re.findall(r"^RUN (.*)$", DOCKERFILE, re.M)[-1]
    installed = last.replace("make .venv/.locked", "python -m flows.server.tables")  # which that ends with
    assert installed != last
    checkout = Checkout.create(tmp_path / "image")
    checkout.sh(f"unset PREFECT_HOME && {installed}")
    assert ".fewstep/cache" in checkout.sh("dvc config cache.dir")


def test_the_image_has_a_supported_python_and_a_user_without_root_rights():
    python = re.search(r"^FROM python:(\d+\.\d+\.\d+)-", DOCKERFILE, re.M)[1]
    required = re.search(r'requires-python = "(.*)"', (CHECKOUT / "pyproject.toml").read_text())[1]
    assert Version(python) in SpecifierSet(required)
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.M)[-1] == "fewstep"


def test_no_image_holds_the_secrets():
    left_out = (INFRA / "Dockerfile.dockerignore").read_text().split()
    assert {"infra/.env", ".dvc/config.local"} <= set(left_out)
    assert "/infra/.env" in (CHECKOUT / ".gitignore").read_text().split()


def test_each_pool_has_a_worker_that_keeps_what_the_image_says():
    place = re.search(r"^WORKDIR (.*)$", DOCKERFILE, re.M)[1]
    pools = {"driver", *yaml.safe_load((INFRA / "pools.yaml").read_text()).values()}
    workers = {service["command"][2]: name for name, service in SERVICES.items() if name.endswith("-worker")}
    assert set(workers) == pools
    for pool, name in workers.items():
        assert SERVICES[name]["command"] == ["fewstep", "worker", pool, "--with-healthcheck"]
        assert SERVICES[name]["volumes"] == [f"{name}:{place}/.fewstep"]
