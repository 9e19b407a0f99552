"""Definitions of the custom resources that the manifests use."""

from __future__ import annotations

from typing import Any

from tests.deploy.manifests import custom_definition

#: Published with a Go module of the operator.
PUBLISHED = (
    ("monitoring.coreos.com", "PodMonitor"),
    ("monitoring.coreos.com", "ServiceMonitor"),
    ("monitoring.coreos.com", "PrometheusRule"),
    ("keda.sh", "ScaledObject"),
    ("keda.sh", "TriggerAuthentication"),
)
#: Strimzi publishes its definitions in no module or package: these take any specification.
OPEN = (("kafka.strimzi.io", "KafkaTopic"), ("kafka.strimzi.io", "KafkaUser"))


def open_definition(group: str, kind: str, version: str = "v1") -> dict[str, Any]:
    """A definition that says nothing about the contents."""
    plural = f"{kind.lower()}s"
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": free}}],
        },
    }


def definitions() -> list[dict[str, Any]]:
    """All of them. Skips the test where Go or the modules are missing."""
    return [custom_definition(*names) for names in PUBLISHED] + [open_definition(*names) for names in OPEN]
