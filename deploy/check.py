"""Whether the deployment files are what Docker Compose, kubectl and the schemas of Kubernetes' API take them for, without a
daemon or a cluster. `make deploy-check` runs it; exit code 1 with a sentence for what is wrong.

KubeRay's own kinds have no schema here: their pods are checked as pods, and their keys by tests/test_deploy.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import kubernetes_validate
import yaml

HERE = Path(__file__).parent
COMPOSED = (("compose.yaml",), ("compose.yaml", "compose.gpu.yaml"))
OVERLAYS = ("kuberay/base", "kuberay/gpu")
# As Debian's package brings it, or as a part of Docker.
COMPOSE = ["docker-compose"] if which("docker-compose") else ["docker", "compose"]


def composed(files: tuple[str, ...]) -> None:
    """Raises CalledProcessError."""
    named = [word for file in files for word in ("--file", str(HERE / file))]
    subprocess.run([*COMPOSE, *named, "config", "--quiet"], check=True)


def rendered(overlay: str) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k` would send. Raises CalledProcessError."""
    done = subprocess.run(["kubectl", "kustomize", str(HERE / overlay)], check=True, stdout=subprocess.PIPE, text=True)
    return list(yaml.safe_load_all(done.stdout))


def checkable(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What of an object has a schema: itself, or the pods of a Ray cluster."""
    if made["kind"] != "RayCluster":
        yield made
        return
    groups = [made["spec"]["headGroupSpec"], *made["spec"]["workerGroupSpecs"]]
    for number, group in enumerate(groups):
        name = {"name": f"{made['metadata']['name']}-{group.get('groupName', number)}"}
        yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": name, "template": group["template"]}


def main() -> int:
    missing = [program for program in (COMPOSE[0], "kubectl") if which(program) is None]
    if missing:
        print(f"{' and '.join(missing)} must be there; on Debian: apt-get install docker-compose kubernetes-client")
        return 1
    try:
        for files in COMPOSED:
            composed(files)
            print(f"{' + '.join(files)}: as Docker Compose takes it")
        for overlay in OVERLAYS:
            for made in rendered(overlay):
                for one in checkable(made):
                    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
                    print(f"{overlay}: {one['kind']} {one['metadata']['name']}")
    except (subprocess.CalledProcessError, kubernetes_validate.ValidationError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
