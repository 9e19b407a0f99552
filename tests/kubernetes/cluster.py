"""A cluster of three zones: the real control plane, a stand-in of the kubelet for each node, and custom resources."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.definitions import definitions
from tests.services import ROOT
from tests.services.kubernetes.container import Image
from tests.services.kubernetes.control_plane import NODES, ControlPlane, node_user
from tests.services.kubernetes.kubelet import Kubelet

#: The image that the manifests name. It is this version of the package.
CURRENT = "tokentrace:0.1.0"
TOKEN = "a token of the scrapers"
NAMESPACE = "tokentrace"


def worker_image(package: Path) -> Image:
    """An image of the worker: what deploy/Dockerfile makes, with the tests' interpreter and this package."""
    path = os.pathsep.join([str(package), str(ROOT)])
    return Image([sys.executable, "-m", "tokentrace"], {"PATH": os.environ["PATH"], "PYTHONPATH": path})


class Cluster:
    """Raises Unavailable where the control plane cannot run."""

    def __init__(self, folder: Path) -> None:
        self.control = ControlPlane(folder / "control-plane")
        self._folder = folder
        self.images = {CURRENT: worker_image(ROOT / "worker")}
        self.kubelets: list[Kubelet] = []

    def start(self) -> None:
        """Start the control plane and the nodes, and make the custom resources known."""
        self.control.start()
        for node in NODES:
            kubelet = Kubelet(
                self.control.api(node_user(node)), node, f"zone-{node[-1]}", self.images, self._folder / node
            )
            kubelet.register()
            kubelet.start()
            self.kubelets.append(kubelet)
        self.api = self.control.api()
        self.create(definitions())
        self.control.kubectl("wait", "--for=condition=established", "crd", "--all", "--timeout=60s")

    def stop(self) -> None:
        """End every pod and the control plane."""
        for kubelet in self.kubelets:
            kubelet.stop()
        self.control.stop()

    def create(self, documents: list[dict[str, Any]]) -> None:
        """Create objects. Definitions of custom resources are too long for the annotation that `apply` writes."""
        text = "\n---\n".join(json.dumps(document) for document in documents)
        self.control.kubectl("create", "--validate=strict", "-f", "-", given=text)

    def pods(self, namespace: str = NAMESPACE) -> dict[str, dict[str, Any]]:
        """Name -> pod, as the API server has them."""
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        return {pod["metadata"]["name"]: pod for pod in found}

    def log(self, name: str) -> str:
        """The end of the logs of pods of this name."""
        paths = sorted(self._folder.glob(f"node-*/{name}-*/log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-3000:]}" for path in paths)

    def make_namespace(self, **secret: str) -> None:
        """As docs/deploy.md says: the namespace, and the Secret that the pods read."""
        overlay = ROOT / "deploy" / "kubernetes" / "overlays" / "production"
        self.control.kubectl("apply", "--validate=strict", "-f", str(overlay / "namespace.yaml"))
        literals = [f"--from-literal={key}={value}" for key, value in secret.items()]
        self.control.kubectl("-n", NAMESPACE, "create", "secret", "generic", "tokentrace", *literals)

    def delete_namespace(self, name: str = NAMESPACE) -> None:
        """With everything in it, whose pods end at once."""
        self.control.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        self.control.kubectl("-n", name, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
        self.control.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=180s")

    def uncordon(self) -> None:
        for node in NODES:
            self.control.kubectl("uncordon", node)


def ready(pod: dict[str, Any]) -> bool:
    """True for a pod that is ready and stays."""
    conditions = {found["type"]: found["status"] for found in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def own_overlay(folder: Path, base: str, environment: dict[str, str], **keys: Any) -> Path:
    """Write an overlay on top of a shipped one, as a user does: with variables and other keys of its own."""
    copy = folder / "deploy"
    if not copy.exists():
        shutil.copytree(ROOT / "deploy", copy)
    overlay = copy / "kubernetes" / "overlays" / f"mine-{base}"
    overlay.mkdir(exist_ok=True)
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "tokentrace"},
        "spec": {"template": {"spec": {"containers": [{"name": "worker", "env": variables}]}}},
    }
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [f"../{base}"],
        "patches": [{"target": {"kind": "StatefulSet", "name": "tokentrace"}, "patch": yaml.safe_dump(patch)}],
        **keys,
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return overlay
