"""Compose, Kubernetes and monitoring files: they parse, fit each other, and use flags, paths and metrics that exist."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.embedded import config_files
from serving.embedded.flags import Flags, parse_flags
from serving.embedded.metrics import Metrics
from tfrec.export.publish import write_serving_config
from tfrec.export.rollout import Rollout

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "serving"
COMPOSE = yaml.safe_load((SERVING / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
KUBERNETES = {
    document["kind"]: document
    for path in sorted((SERVING / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
CONTAINER = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["containers"][0]
COMMANDS = [SERVICES["serving"]["command"], SERVICES["serving-gpu"]["command"], CONTAINER["args"]]


def serving_version() -> str:
    found = re.search(r"tensorflow-serving-api==([\d.]+)", (ROOT / "setup.py").read_text())
    assert found is not None
    return found.group(1)


def test_images_are_those_of_the_version_that_is_installed() -> None:
    version = serving_version()
    assert SERVICES["serving"]["image"] == CONTAINER["image"] == f"tensorflow/serving:{version}"
    assert SERVICES["serving-gpu"]["image"] == f"tensorflow/serving:{version}-gpu"
    scann = (SERVING / "Dockerfile.scann").read_text()
    assert re.findall(r"^FROM (\S+)", scann, re.MULTILINE) == [
        f"tensorflow/serving:{version}-devel",
        f"tensorflow/serving:{version}",
    ]
    assert "NOT BUILT AND NOT TESTED" in scann
    assert f"SCANN_VERSION={re.search(r'scann==([0-9.]+)', (ROOT / 'setup.py').read_text())[1]}" in scann
    assert all(re.search(r":v?\d+\.\d+\.\d+", service["image"]) for service in SERVICES.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_embedded_server_takes_the_same_flags(command: list[str]) -> None:
    flags = parse_flags(command)
    assert flags.allow_version_labels_for_unavailable_models
    assert flags.model_config_file_poll_wait_seconds > 0
    paths = [getattr(flags, field.name) for field in fields(Flags) if field.name.endswith("_file")]
    assert {Path(path).parent for path in paths} == {Path("/models")}
    assert {Path(path).name for path in paths} == {"models.config", "monitoring.config", "batching.config"}


def test_models_are_mounted_where_models_config_looks() -> None:
    base_path = Rollout().base_path
    for service in ("serving", "serving-gpu"):
        assert SERVICES[service]["volumes"] == [f"${{MODELS:-../runs/demo/models}}:{base_path}:ro"]
    mounts = {mount["name"]: mount for mount in CONTAINER["volumeMounts"]}
    assert (mounts["models"]["mountPath"], mounts["models"]["readOnly"]) == (base_path, True)
    claim = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == KUBERNETES["PersistentVolumeClaim"]["metadata"]["name"]


def test_cpu_is_the_default_and_the_rest_are_profiles() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert profiles == {"serving": [], "serving-gpu": ["gpu"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}
    devices = SERVICES["serving-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert 0 < parse_flags(SERVICES["serving-gpu"]["command"]).per_process_gpu_memory_fraction < 0.5
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service["ports"])


def test_mounted_files_exist() -> None:
    for service in ("prometheus", "grafana"):
        for volume in SERVICES[service]["volumes"]:
            assert (SERVING / volume.split(":")[0]).is_file(), volume


def test_kubernetes_objects_fit_each_other() -> None:
    deployment, service = KUBERNETES["Deployment"], KUBERNETES["Service"]
    assert set(KUBERNETES) == {
        "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "PersistentVolumeClaim"
    }  # fmt: skip
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = KUBERNETES["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    ports = {port["name"] for port in CONTAINER["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert CONTAINER["readinessProbe"]["httpGet"]["path"].startswith("/v1/models/recommender")
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])


def _expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in ([inner] if key == "expr" else _expressions(inner))]
    return [item for inner in value for item in _expressions(inner)] if isinstance(value, list) else []


def test_the_dashboard_shows_metrics_and_labels_that_servers_have() -> None:
    page = "\n".join(_sample_page())
    dashboard = json.loads((SERVING / "monitoring" / "grafana" / "serving.json").read_text())
    expressions = _expressions(dashboard)
    assert len(expressions) >= 8
    for expression in expressions:
        for name in re.findall(r":tensorflow:[\w:]+", expression):
            assert f"{name}{{" in page, name
            line = next(line for line in page.splitlines() if line.startswith(f"{name}{{"))
            for labels in re.findall(r"by \(([^)]+)\)", expression):
                assert all(f"{label}=" in line for label in labels.split(", ") if label != "le"), (labels, line)
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"prometheus"}


def _sample_page() -> list[str]:
    metrics = Metrics()
    metrics.request_count.add("m", "OK")
    metrics.request_latency.add("m", "Predict", "GRPC", value=1)
    metrics.runtime_latency.add("m", "Predict", "TF1", value=1)
    metrics.batch_size.add("m", value=1)
    metrics.load_attempts.add("/models/m/1", "OK")
    return metrics.page().splitlines()


def test_prometheus_scrapes_the_path_of_monitoring_config(tmp_path: Path) -> None:
    write_serving_config(tmp_path, [], {})
    path = config_files.read_prometheus_path(str(tmp_path / "monitoring.config"))
    scraped = yaml.safe_load((SERVING / "monitoring" / "prometheus.yml").read_text())["scrape_configs"][0]
    annotations = KUBERNETES["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert path == scraped["metrics_path"] == annotations["prometheus.io/path"]
    host, port = scraped["static_configs"][0]["targets"][0].split(":")
    assert host in SERVICES["serving"]["networks"]["default"]["aliases"]
    assert f"127.0.0.1:{port}:{port}" in SERVICES["serving"]["ports"]


def _python_blocks() -> list[str]:
    """The Python in the README."""
    text = (SERVING / "README.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in blocks if re.match(r"\s*(import|from) ", block)]


@pytest.mark.parametrize("block", _python_blocks())
def test_the_python_of_the_readme_runs(block: str, echo_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rest = echo_server.url.removeprefix("http://")
    exec(block.replace("localhost:8501", rest).replace("localhost:8500", f"127.0.0.1:{echo_server.port}"), {})
    assert "v0003" in capsys.readouterr().out


def test_the_readme_has_each_way_to_ask() -> None:
    blocks = _python_blocks()
    assert len(blocks) == 3
    assert ["requests" in blocks[0], "grpc" in blocks[1], "serving.client" in blocks[2]] == [True] * 3
