"""Framings as they are found in the field, from the message to the count: headers, Apicurio's ids, AWS Glue."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator

import pytest

from tests.decode.helpers import record_schema
from tests.decode.schemas.helpers import StandIn, stand_in
from tests.decode.test_framing import apicurio, glue
from tests.harness import Harness, raw_batch
from tests.spanfactory import SPAN_SCHEMA, datum, span
from tokentrace.decode.schema_key import ApicurioId, SchemaKey
from tokentrace.decode.schemas.registry import Registry, RegistrySettings
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import SchemaError, SchemaUnavailable

GUID = uuid.UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")
#: So many that the columnar decoder takes them.
COUNT = 20


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


def own_api(server: StandIn, version: int = 3, **settings: str) -> Registry:
    return Registry(RegistrySettings(f"{server.url}/apis/registry/v{version}", **settings))  # type: ignore[arg-type]


def datums() -> list[bytes]:
    """Return spans whose first byte is 0, as that of Confluent's wire format: they have no trace id."""
    return [datum(span(trace_id="", span_id=str(row))) for row in range(COUNT)]


def counted(rig: Harness, values: list[bytes], **headers: bytes) -> tuple[int, dict[str, int]]:
    """Count the messages, each with these headers. Returns (spans, rejects by reason)."""
    names = {name.replace("__dot__", "."): [value] * len(values) for name, value in headers.items()}
    rig.engine.count(raw_batch(values, now_s=rig.clock.now_s, schema_headers=names), rig.delta)  # type: ignore[arg-type]
    return rig.delta.counted.total(), dict(rig.delta.reasons)


def test_a_guid_in_a_header_is_looked_up_once_and_its_spans_are_decoded_in_columns(server: StandIn) -> None:
    body = {"schema": json.dumps(SPAN_SCHEMA), "guid": str(GUID), "id": 3, "subject": "s", "version": 1}
    server.answers[f"/schemas/guids/{GUID}"] = (200, json.dumps(body).encode())
    rig = Harness(schemas=WriterSchemas(registry=Registry(RegistrySettings(server.url))))
    assert counted(rig, datums(), __value_schema_id=b"\x01" + GUID.bytes) == (COUNT, {})
    assert rig.engine._decoder.paths == {(f"guid:{GUID}", "columnar"): 1}
    assert server.asked == [f"/schemas/guids/{GUID}"]


def test_an_unknown_guid_is_a_dead_letter_that_names_it(server: StandIn) -> None:
    rig = Harness(schemas=WriterSchemas(registry=Registry(RegistrySettings(server.url))))
    assert counted(rig, datums()[:1], __value_schema_id=b"\x01" + GUID.bytes) == (0, {"unknown_schema_id": 1})
    (letter,) = rig.delta.dead_letters
    assert letter.error == f"The schema registry has no schema with GUID {GUID}."


def test_ids_of_eight_bytes_are_looked_up_as_ids_of_contents_by_the_confluent_api(server: StandIn) -> None:
    server.add_id(7, SPAN_SCHEMA)
    rig = Harness(schemas=WriterSchemas(registry=Registry(RegistrySettings(server.url))))
    assert counted(rig, [apicurio(7, data) for data in datums()]) == (COUNT, {})
    assert rig.engine._decoder.paths == {("apicurio:id 7", "columnar"): 1}
    assert server.asked == ["/schemas/ids/7"]


@pytest.mark.parametrize(
    ("ids", "name", "path"),
    [
        ("content", ApicurioId(7), "contentIds"),
        ("global", ApicurioId(7), "globalIds"),
        ("global", ApicurioId(7, "content"), "contentIds"),
        ("content", ApicurioId(7, "global"), "globalIds"),
    ],
)
def test_apicurios_own_api_is_asked_by_the_kind_of_the_id(
    server: StandIn, ids: str, name: ApicurioId, path: str
) -> None:
    server.answers[f"/apis/registry/v3/ids/{path}/7"] = (200, json.dumps(SPAN_SCHEMA).encode())
    server.answers[f"/apis/registry/v3/ids/{path}/7/references"] = (200, b"[]")
    schemas = WriterSchemas(registry=own_api(server, ids=ids, credentials="reader:secret"))
    key = SchemaKey("apicurio", name)
    assert schemas.fetch([key]) is None
    assert schemas.get(key) == SPAN_SCHEMA
    assert server.authorizations == [f"Basic {base64.b64encode(b'reader:secret').decode()}"] * 2


@pytest.mark.parametrize(("version", "content"), [(2, ""), (3, "/content")])
def test_references_of_apicurio_are_fetched_by_group_artifact_and_version(
    server: StandIn, version: int, content: str
) -> None:
    base = f"/apis/registry/v{version}"
    kind = {"type": "enum", "name": "Kind", "namespace": "a", "symbols": ["x"]}
    whole = record_schema("Span", model="string", prompt_tokens="long", kind="a.Kind")
    reference = {"groupId": None, "artifactId": "a kind", "version": "1.0.0", "name": "a.Kind"}
    artifact = f"{base}/groups/default/artifacts/a%20kind/versions/1.0.0"
    server.answers |= {
        f"{base}/ids/contentIds/7": (200, json.dumps(whole).encode()),
        f"{base}/ids/contentIds/7/references": (200, json.dumps([reference]).encode()),
        f"{artifact}{content}": (200, json.dumps(kind).encode()),
        f"{artifact}/references": (200, b"[]"),
    }
    found = own_api(server, version).get(ApicurioId(7))
    assert [field["type"] for field in found["fields"]] == ["string", "long", kind]


def test_an_id_that_apicurio_does_not_have_is_the_messages_fault(server: StandIn) -> None:
    server.otherwise = (404, b'{"status": 404, "title": "No content with id"}')
    server.answers["/apis/registry/v2/system/info"] = (200, b'{"name": "Apicurio Registry", "version": "2.6"}')
    registry = own_api(server, 2)
    with pytest.raises(SchemaError, match=r"no schema with Apicurio's id 7\.") as raised:
        registry.get(ApicurioId(7))
    assert raised.value.reason == "unknown_schema_id"


@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_address_without_apicurio_is_not_the_messages_fault(server: StandIn, status: int) -> None:
    server.otherwise = (status, b"<html>")
    with pytest.raises(SchemaUnavailable, match=str(status)):
        own_api(server).get(ApicurioId(7))


def test_a_global_id_that_the_registry_cannot_know_says_which_address_knows_it(server: StandIn) -> None:
    rig = Harness(schemas=WriterSchemas(registry=Registry(RegistrySettings(server.url))))
    header = {"apicurio__dot__value__dot__globalId": bytes(7) + b"\x07"}
    assert counted(rig, datums()[:1], **header) == (0, {"unknown_schema_id": 1})
    assert "set schema_registry.url to its own API" in rig.delta.dead_letters[0].error
    assert server.asked == []


@pytest.mark.parametrize("kind", ["guid", "id", "apicurio"])
def test_without_a_registry_the_sentence_says_so(kind: str) -> None:
    value = {"guid": GUID, "id": 7, "apicurio": ApicurioId(7)}[kind]
    with pytest.raises(SchemaError, match="no registry is configured"):
        WriterSchemas().get(SchemaKey(kind, value))  # type: ignore[arg-type]


@pytest.mark.parametrize("compressed", [False, True])
def test_spans_of_aws_glue_are_read_with_the_file_of_their_schema_version(compressed: bool) -> None:
    rig = Harness(schemas=WriterSchemas(glue={GUID: SPAN_SCHEMA}))
    values = [glue(GUID.bytes, data, compressed=compressed) for data in datums()]
    assert counted(rig, values) == (COUNT, {})
    assert rig.engine._decoder.paths == {(f"glue:{GUID}", "columnar"): 1}


def test_a_schema_version_of_aws_glue_without_a_file_is_named() -> None:
    rig = Harness()
    value = glue(GUID.bytes, datums()[0], compressed=True)
    assert counted(rig, [value]) == (0, {"unknown_schema_id": 1})
    (letter,) = rig.delta.dead_letters
    assert str(GUID) in letter.error
    assert "schemas.glue" in letter.error
    assert letter.envelope.value == value, "a dead letter has the bytes as they came"
