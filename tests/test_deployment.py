"""The compose file, the container images and the systemd unit, as far as they are held without an engine."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from service.cli.connections import ANSWER_S
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
UNIT = ROOT / "docker/systemd/reid-gallery.service"
COLD_START_S = 132
"""The longest cold start that was seen, on a busy machine, in seconds."""

SHUTDOWN_S = float(Settings.model_fields["drain_s"].default) + ANSWER_S
"""How long a service takes to end by default, in seconds, once it is told to."""

MAX_EXPOSURE = 20
"""In tenths, of the ten points of `systemd-analyze security`: the unit has 1.7."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file, with its anchors resolved."""
    return dict(YAML(typ="safe").load(COMPOSE)["services"])


def seconds(duration: str) -> int:
    """Return a duration such as 45s."""
    found = re.fullmatch(r"(\d+)s", duration)
    assert found, duration
    return int(found[1])


def test_the_compose_file_is_one_by_the_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*checker, COMPOSE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_container_is_confined_and_has_limits(services: dict[str, Any]) -> None:
    assert services.keys() == {"service", "service-gpu", "service-postgres", "postgres", "training"}
    for name, one in services.items():
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        if name != "training":
            assert one["read_only"], name
            assert {"mem_limit", "pids_limit"} <= one.keys(), name
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", [])), name


def test_no_secret_is_in_the_environment_of_a_container(services: dict[str, Any]) -> None:
    for name, one in services.items():
        for variable, value in one.get("environment", {}).items():
            is_secret = re.search("PASSWORD|DATABASE_URL|KEY", variable)
            assert not is_secret or value.startswith("/run/secrets/"), name


def test_a_container_has_time_to_start_and_to_end(services: dict[str, Any]) -> None:
    for name in ("service", "service-gpu", "service-postgres"):
        assert seconds(services[name]["stop_grace_period"]) >= SHUTDOWN_S + 5
    check = (ROOT / "docker/service.Dockerfile").read_text(encoding="utf-8").partition("HEALTHCHECK ")[2]
    assert seconds(check.split()[0].removeprefix("--start-period=")) >= 2 * COLD_START_S


@pytest.mark.parametrize("name", ["service", "training"])
def test_an_image_is_built_from_files_that_are_there_and_sent_to_the_engine(name: str) -> None:
    text = (ROOT / f"docker/{name}.Dockerfile").read_text(encoding="utf-8")
    sent = (ROOT / f"docker/{name}.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            is_optional = "[" in source  # COPY passes over a pattern that fits nothing
            plain = source.replace("[", "").replace("]", "")
            assert f"!{plain}" in sent
            assert is_optional or (ROOT / plain).exists()


@pytest.mark.parametrize("name", ["service", "training"])
def test_hadolint_finds_nothing_in_a_dockerfile(name: str) -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint is not None, "make dev installs it"
    done = subprocess.run([hadolint, ROOT / f"docker/{name}.Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_image_for_cpus_alone_installs_nothing_for_gpus() -> None:
    def requirements(*arguments: str) -> list[Requirement]:
        script = [sys.executable, "docker/requirements.py", *arguments]
        printed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [Requirement(line) for line in printed.splitlines()]

    def names(wanted: list[Requirement]) -> set[str]:
        machine = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"}
        return {one.name for one in wanted if one.marker is None or one.marker.evaluate(machine)}

    on_cpu, on_gpu = names(requirements("cpu")), names(requirements("cuda"))
    assert on_cpu - on_gpu == {"faiss-cpu"}
    assert on_gpu - on_cpu == {"faiss-gpu"}
    assert "scipy" in names(requirements("cpu", "training")) - on_cpu
    done = subprocess.run([sys.executable, "docker/requirements.py", "gpu"], cwd=ROOT, capture_output=True)
    assert (done.returncode, b"BUILD is cuda or cpu" in done.stderr) == (1, True)


def read_unit() -> dict[str, str]:
    """Return the section [Service] of the unit."""
    parser = configparser.RawConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep capitals
    parser.read(UNIT, encoding="utf-8")
    return dict(parser["Service"])


def test_the_unit_gives_time_to_end_and_confines_the_service() -> None:
    unit = read_unit()
    assert int(unit["TimeoutStopSec"]) >= SHUTDOWN_S + 5
    assert unit["KillMode"] == "mixed"
    assert unit["User"] not in ("", "root")
    assert (unit["ProtectSystem"], unit["NoNewPrivileges"], unit["UMask"]) == ("strict", "yes", "0077")
    assert unit["CapabilityBoundingSet"] == ""
    settings = dict(one.split("=", 1) for one in unit["Environment"].split())
    assert settings["REID_DATA_DIR"] == f"/var/lib/{unit['StateDirectory']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace(
        "/opt/reid-gallery/.venv/bin/reid", shutil.which("true") or ""
    )
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    for question in (["verify"], ["security", "--offline=true", f"--threshold={MAX_EXPOSURE}"]):
        done = subprocess.run(["systemd-analyze", *question, copy], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr
        assert "Unknown" not in done.stderr, done.stderr
