"""The API server's own decoding, defaults and validation, and Pod Security, over every overlay and the chart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.manifests import CUSTOM_GROUPS, FOLDER, OVERLAYS, build, built, one
from tests.deploy.test_components import combine as combine  # a fixture
from tests.deploy.test_helm import CHOICES, rendered
from tests.services import Unavailable
from tests.services.kubernetes import program, validate

Objects = list[dict[str, Any]]

#: Components that stand together. The overlays and the chart have the others.
TOGETHER = (
    ("pod-monitor", "tls", "admin-token", "annotations"),
    ("pod-monitor", "ledger"),
    ("service-monitor", "ledger", "kafka-ca", "kafka-certificate", "tls", "annotations"),
    ("keda", "service-monitor", "kafka-ca", "kafka-certificate", "tls"),
    ("hpa", "prometheus-rule"),
)


@pytest.fixture(autouse=True, scope="module")
def _validator() -> None:
    try:
        program("validate")
    except Unavailable as error:
        pytest.skip(str(error))


def problems(documents: Objects) -> list[str]:
    """Return what the API server does not take. It knows every kind but those of custom resources."""
    findings = validate(documents)
    assert [(found.kind, found.name) for found in findings] == [
        (document["kind"], document["metadata"]["name"]) for document in documents
    ]
    custom = [document["apiVersion"].partition("/")[0] in CUSTOM_GROUPS for document in documents]
    assert [not found.known for found in findings] == custom
    return [f"{found.kind}: {problem}" for found in findings for problem in found.problems]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_api_server_creates_every_object_of_an_overlay(overlay: str) -> None:
    assert problems(built(overlay)) == []


@pytest.mark.parametrize("components", TOGETHER, ids="+".join)
def test_api_server_creates_every_object_of_the_components(
    components: tuple[str, ...], combine: Callable[..., Objects]
) -> None:
    assert problems(combine(*components)) == []


def test_every_component_is_looked_at() -> None:
    used = {name for together in TOGETHER for name in together} | {"grafana-dashboard"}  # in production
    assert used == {path.name for path in (FOLDER / "components").iterdir()}


@pytest.mark.parametrize("choice", CHOICES)
def test_api_server_creates_every_object_of_the_chart(choice: str) -> None:
    assert problems(rendered(choice)) == []


def test_strimzi_s_objects_are_custom_resources() -> None:
    assert problems(build(FOLDER / "strimzi")) == []


def change(path: str, value: Any) -> Callable[[Objects], None]:
    """Set what is at a path below the StatefulSet, as `spec.replicas`."""

    def apply(documents: Objects) -> None:
        *parents, last = path.split(".")
        found: Any = one(documents, "StatefulSet")
        for name in parents:
            found = found[int(name) if name.isdigit() else name]
        found[last] = value

    return apply


POD = "spec.template.spec"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change("spec.replica", 3), 'unknown field "spec.replica"'),
        (change("spec.replicas", -1), "spec.replicas: Invalid value: -1"),
        (change("spec.replicas", "two"), "cannot unmarshal string"),
        (change("spec.selector.matchLabels", {"a": "b"}), "`selector` does not match template `labels`"),
        (change(f"{POD}.containers.0.volumeMounts.0.name", "other"), 'volumeMounts[0].name: Not found: "other"'),
        (change(f"{POD}.containers.0.readinessProbe.httpGet.port", "no_name"), "readinessProbe.httpGet.port"),
        (change(f"{POD}.containers.0.resources.requests.memory", "2Gi"), "must be less than or equal to memory limit"),
        (change(f"{POD}.securityContext.runAsNonRoot", False), "restricted: runAsNonRoot != true"),
        (change(f"{POD}.containers.0.securityContext.capabilities", {}), "restricted: unrestricted capabilities"),
        (change(f"{POD}.hostNetwork", True), "restricted: host namespaces"),
    ],
)
def test_object_that_the_api_server_would_not_create_is_found(spoil: Callable[[Objects], None], words: str) -> None:
    documents = copy.deepcopy(built("production"))
    spoil(documents)
    assert any(words in problem for problem in problems(documents)), problems(documents)
