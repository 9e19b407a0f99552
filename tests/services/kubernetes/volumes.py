"""Variables of a container, and its volumes as files, from the API server's ConfigMaps and Secrets."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import yaml

from tests.services.kubernetes.api import Api, Refused


class NotYet(Exception):
    """A container cannot be made now; reason is the word that the pod's status has for it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Given:
    """Arguments, variables and files of the pod's container. Raises NotYet while a ConfigMap or a Secret is not there.

    There is no file system of its own: a volume is a folder, and `path` leads from a path in the container to the one
    on this machine. Arguments, variables and the worker's configuration have the paths of this machine.
    """

    def __init__(self, api: Api, pod: dict[str, Any], address: str, folder: Path) -> None:
        self._api, self._pod, self._address, self._folder = api, pod, address, folder
        (self.container,) = pod["spec"]["containers"]
        self._namespace = pod["metadata"]["namespace"]
        self._folders = {
            mount["mountPath"]: folder / "volumes" / mount["name"] for mount in self.container.get("volumeMounts", [])
        }
        for volume in pod["spec"].get("volumes", []):
            self._fill(folder / "volumes" / volume["name"], volume)
        self.environment = dict(map(self._variable, self.container.get("env", [])))
        self.arguments = [
            self.path(re.sub(r"\$\((\w+)\)", lambda found: self.environment.get(found[1], found[0]), word))
            for word in [*self.container.get("command", []), *self.container.get("args", [])]
        ]

    def path(self, text: str) -> str:
        """The text with the mounted paths in it as those of this machine."""
        if not self._folders:
            return text
        mounted = "|".join(re.escape(inside) for inside in sorted(self._folders, key=len, reverse=True))
        return re.sub(rf"(?<![\w/.-])({mounted})(?=/|$|[\s\"'])", lambda found: str(self._folders[found[1]]), text)

    def _object(self, kind: str, name: str, reason: str) -> dict[str, bytes]:
        """Key -> content of a ConfigMap or a Secret, as the kubelet's own user may read it."""
        try:
            found = self._api.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except Refused as error:
            raise NotYet(reason, str(error)) from error
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
        return {key: value.encode() for key, value in found.get("data", {}).items()}

    def _fill(self, folder: Path, volume: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            source, content = (
                volume["configMap"],
                self._object("configmaps", volume["configMap"]["name"], "FailedMount"),
            )
        elif "secret" in volume:
            source, content = volume["secret"], self._object("secrets", volume["secret"]["secretName"], "FailedMount")
        elif "emptyDir" in volume:
            return
        else:
            raise NotImplementedError(f"volumes of the kind {sorted(volume)}")
        items = source.get("items") or [{"key": key, "path": key} for key in content]
        for item in items:
            if item["key"] not in content:
                raise NotYet("FailedMount", f"references non-existent config key: {item['key']}")
            path = folder / item["path"]
            path.unlink(missing_ok=True)
            path.write_bytes(self._of_this_machine(content[item["key"]]))
            path.chmod(item.get("mode", source.get("defaultMode", 0o644)))

    def _of_this_machine(self, content: bytes) -> bytes:
        """The worker's configuration with the pod's own address, and with paths of this machine; else as it is."""
        if re.search(rb"(?m)^http_server:", content) is None:
            return content
        config = yaml.safe_load(self.path(content.decode()))
        host, _, port = config["http_server"]["addr"].rpartition(":")
        assert host in ("", "0.0.0.0"), "a pod listens on its address"
        config["http_server"]["addr"] = f"{self._address}:{port}"
        return yaml.safe_dump(config).encode()

    def _variable(self, variable: dict[str, Any]) -> tuple[str, str]:
        name, source = variable["name"], variable.get("valueFrom")
        if source is None:
            return name, self.path(variable.get("value", ""))
        if "fieldRef" in source:
            path = source["fieldRef"]["fieldPath"]
            if path == "status.podIP":
                return name, self._address
            found: Any = self._pod
            for part in path.split("."):
                found = found[part]
            return name, str(found)
        (kind, reference), *_ = source.items()
        content = self._object(
            {"secretKeyRef": "secrets", "configMapKeyRef": "configmaps"}[kind],
            reference["name"],
            "CreateContainerConfigError",
        )
        if reference["key"] not in content:
            message = f"couldn't find key {reference['key']} in {reference['name']}"
            raise NotYet("CreateContainerConfigError", message)
        return name, content[reference["key"]].decode()
