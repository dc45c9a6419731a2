"""Deployment files say what the program understands and agree with each other; `make deploy-check` asks Docker Compose and
kubectl beside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from loki_rl.cli.main import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
TARGETS = set(re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, re.MULTILINE))
PORT = 8000

# What KubeRay's RayCluster (ray.io/v1) has, as far as these files use it.
CLUSTER_KEYS = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD_KEYS = {"serviceType", "rayStartParams", "template"}
WORKER_KEYS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def cluster() -> dict[str, Any]:
    found: dict[str, Any] = read("kuberay/base/cluster.yaml")["spec"]
    return found


def plane_container() -> dict[str, Any]:
    """Of the head's pod, where patch and service look for it."""
    found: dict[str, Any] = cluster()["headGroupSpec"]["template"]["spec"]["containers"][1]
    return found


def compose_command(name: str) -> list[str]:
    return [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in read(name)["services"]["plane"]["command"]]


def commands() -> Iterator[tuple[str, list[str]]]:
    """File -> arguments of loki-rl in it."""
    (started,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    yield "Dockerfile", json.loads(started)
    for name in ("compose.yaml", "compose.gpu.yaml"):
        yield name, compose_command(name)
    program, *first = plane_container()["command"]
    assert program == "loki-rl"
    yield "cluster.yaml", first + plane_container()["args"]
    (patched,) = (one["value"] for one in read("kuberay/gpu/workers.yaml") if one["path"].endswith("/args"))
    yield "workers.yaml", first + patched
    (unit,) = re.findall(r"^ExecStart=\S+/loki-rl (.*)$", (DEPLOY / "loki-rl.service").read_text(), re.MULTILINE)
    yield "loki-rl.service", unit.split()


COMMANDS = dict(commands())


def made(name: str) -> click.Command:
    found = app.get_command(click.Context(app), name)
    assert found is not None
    return found


def knows_ray() -> bool:
    return any("--launcher" in option.opts for option in made("serve").params)


@pytest.mark.parametrize("file", COMMANDS)
def test_a_command_is_one_that_the_program_takes(file: str) -> None:
    name, *arguments = COMMANDS[file]
    if "--launcher" in arguments and not knows_ray():
        pytest.skip("this build has no launcher for Ray")
    made(name).make_context(name, arguments)


def test_the_port_is_the_same_everywhere() -> None:
    containers = {file: words for file, words in COMMANDS.items() if file != "loki-rl.service"}
    assert {words[words.index("--http-port") + 1] for words in containers.values()} == {str(PORT)}
    # Whoever listens on the loopback of a container answers nobody.
    assert all(words[words.index("--http-host") + 1] == "0.0.0.0" for words in containers.values())
    assert f"EXPOSE {PORT}" in DOCKERFILE
    assert f"http://127.0.0.1:{PORT}/v2/health/live" in DOCKERFILE
    (job,) = read("compose/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"plane:{PORT}"]}]
    assert plane_container()["ports"] == [{"name": "http", "containerPort": PORT}]
    (served,) = read("kuberay/base/service.yaml")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (PORT, "http")
    *_, guarded = read("kuberay/base/network.yaml")["spec"]["ingress"]
    assert [rule["port"] for rule in guarded["ports"]] == [PORT]


def test_nothing_is_published_beyond_this_host() -> None:
    published = [port for service in read("compose.yaml")["services"].values() for port in service["ports"]]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_images_are_those_that_are_built() -> None:
    assert {"cpu", "gpu"} == TARGETS
    for name in ("compose.yaml", "compose.gpu.yaml"):
        plane = read(name)["services"]["plane"]
        assert plane["image"] == f"loki-rl:{plane['build']['target']}"
        assert plane["build"]["target"] in TARGETS
    for overlay, target in (("base", "cpu"), ("gpu", "gpu")):
        said = read(f"kuberay/{overlay}/kustomization.yaml")
        assert said["images"] == [{"name": "loki-rl", "newTag": target}]
        assert target in TARGETS
        if "resources" in said:
            assert all((DEPLOY / "kuberay" / overlay / one).exists() for one in said["resources"])


def test_an_image_is_built_from_all_that_the_package_links_to() -> None:
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    linked = {one.readlink().name for one in (ROOT / "loki_rl").iterdir() if one.is_symlink()}
    assert linked
    assert linked | {"loki_rl", "pyproject.toml", "README.md", "LICENSE"} == let_in


def test_what_is_mounted_is_there_and_is_where_it_is_looked_for() -> None:
    services = read("compose.yaml")["services"]
    volumes = [mount.split(":") for service in services.values() for mount in service["volumes"]]
    bound = [source for source, *_ in volumes if source.startswith(".")]
    assert len(bound) == 4
    assert all((DEPLOY / source).is_file() for source in bound)
    assert {source for source, *_ in volumes if not source.startswith(".")} == read("compose.yaml")["volumes"].keys()
    (provider,) = read("compose/dashboards.yml")["providers"]
    boards = {target: source for source, target, *_ in volumes}
    assert boards[f"{provider['options']['path']}/grafana.json"] == "./grafana.json"
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in boards
    # Of the folders that belong to the user of the image.
    (owned,) = re.findall(r"install --directory .*loki (/.*)$", DOCKERFILE, re.MULTILINE)
    assert set(owned.split()) == {target for _, target in (mount.split(":") for mount in services["plane"]["volumes"])}


def test_the_dashboard_finds_its_source() -> None:
    (source,) = read("compose/datasources.yml")["datasources"]
    board = json.loads((DEPLOY / "grafana.json").read_text())
    (variable,) = (one for one in board["templating"]["list"] if one["type"] == "datasource")
    assert (source["type"], source["isDefault"]) == (variable["query"], True)
    host, port = source["url"].removeprefix("http://").split(":")
    assert read("compose.yaml")["services"][host]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_a_ray_cluster_has_keys_that_kuberay_knows() -> None:
    spec = cluster()
    assert spec.keys() == CLUSTER_KEYS
    assert spec["headGroupSpec"].keys() == HEAD_KEYS
    assert all(group.keys() == WORKER_KEYS for group in spec["workerGroupSpecs"])
    assert spec["enableInTreeAutoscaling"] is True
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in spec["workerGroupSpecs"])
    assert all(isinstance(value, str) for value in spec["headGroupSpec"]["rayStartParams"].values())


def test_pods_have_the_volumes_that_they_mount() -> None:
    spec = cluster()
    claimed = read("kuberay/base/models.yaml")["metadata"]["name"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        known = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]} == known.keys()
        assert known["models"]["persistentVolumeClaim"]["claimName"] == claimed


def test_everybody_selects_the_pods_that_there_are() -> None:
    spec = cluster()
    labels = [group["template"]["metadata"]["labels"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert all(one == labels[0] for one in labels)
    assert read("kuberay/base/service.yaml")["spec"]["selector"] == labels[0] | {"ray.io/node-type": "head"}
    assert read("kuberay/base/network.yaml")["spec"]["podSelector"]["matchLabels"] == labels[0]


def test_a_patch_changes_what_is_there() -> None:
    whole = read("kuberay/base/cluster.yaml")
    for change in read("kuberay/gpu/workers.yaml"):
        *above, last = change["path"].strip("/").split("/")
        place = whole
        for key in above:
            place = place[int(key) if isinstance(place, list) else key]
        assert (last in place) == (change["op"] == "replace"), change["path"]
