"""The registry, against a stand-in over real HTTP: what is asked once, what is asked again, and whose fault it is."""

from __future__ import annotations

import base64
import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.decode.helpers import record_schema, write
from tests.decode.schemas.helpers import StandIn, stand_in
from tests.decode.test_framing import confluent
from tests.harness import Clock, Harness
from tests.spanfactory import SPAN_SCHEMA, datum, message, span
from tokentrace.decode.framing import SchemaKey
from tokentrace.decode.schemas import registry
from tokentrace.decode.schemas.registry import (
    CONFIRMED_TTL_S,
    UNKNOWN_TTL_S,
    Registry,
    RegistrySettings,
)
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import ConfigError, SchemaError, SchemaUnavailable

SPAN = record_schema("Span", model="string", prompt_tokens="long")


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


def to(server: StandIn, clock: Clock | None = None, **settings: str | float) -> Registry:
    return Registry(RegistrySettings(server.url, **settings), clock or Clock())  # type: ignore[arg-type]


#: Nesting that JSON may have and schemas may not: from Python 3.12 on the limit is for code in Python alone.
DEEP = 600 if sys.version_info < (3, 12) else 1500


def refused(subject: Registry, schema_id: int) -> tuple[str, str]:
    """The reason and the sentence of a schema that is the message's fault."""
    with pytest.raises(SchemaError) as raised:
        subject.get(schema_id)
    return raised.value.reason, str(raised.value)


def unavailable(subject: Registry, schema_id: int = 1) -> str:
    """The sentence of a registry that cannot tell now."""
    with pytest.raises(SchemaUnavailable) as raised:
        subject.get(schema_id)
    return str(raised.value)


# Schemas that are there.


def test_a_registry_gets_one_request_per_id(server: StandIn) -> None:
    server.add_id(1, SPAN)
    server.add_id(2, '"string"')
    subject = to(server)
    assert [subject.get(schema_id) for schema_id in (1, 2, 1, 1, 2)] == [SPAN, "string", SPAN, SPAN, "string"]
    assert server.asked == ["/schemas/ids/1", "/schemas/ids/2"]
    assert subject.requests == {"ok": 2, "not_found": 0, "error": 0}


def test_the_registry_gets_no_request_before_the_first_message(server: StandIn) -> None:
    assert to(server).requests == {"ok": 0, "not_found": 0, "error": 0}
    assert server.asked == []


def test_a_registry_may_return_a_bare_primitive_type(server: StandIn) -> None:
    server.add_id(1, "long")
    assert to(server).get(1) == "long"


def test_the_largest_schema_id_is_requested(server: StandIn) -> None:
    server.add_id(2**32 - 1, SPAN)
    assert to(server).get(2**32 - 1) == SPAN


def test_a_type_avro_may_be_named(server: StandIn) -> None:
    server.add_id(1, SPAN, schemaType="AVRO")
    assert to(server).get(1) == SPAN


# Schemas that are not.

MISSING = "The schema registry has no schema with id 7."


def test_an_unknown_id_is_the_messages_fault(server: StandIn) -> None:
    assert refused(to(server), 7) == ("unknown_schema_id", MISSING)


def test_an_unknown_id_is_requested_again_after_its_ttl(server: StandIn) -> None:
    clock = Clock()
    subject = to(server, clock)
    start_s = clock.now_s
    asked = {}
    for after_s in (0, 1, UNKNOWN_TTL_S - 0.5, UNKNOWN_TTL_S, UNKNOWN_TTL_S + 1, 2 * UNKNOWN_TTL_S):
        clock.now_s = start_s + after_s
        before = len(server.asked)
        has_answer = subject.has_answer(7)
        assert refused(subject, 7) == ("unknown_schema_id", MISSING)
        assert has_answer == (len(server.asked) == before)
        asked[after_s] = len(server.asked)
    assert list(asked.values()) == [1, 1, 1, 2, 2, 3]
    assert subject.requests == {"ok": 0, "not_found": 3, "error": 0}


def test_many_unknown_ids_are_remembered_for_longer(server: StandIn) -> None:
    """Requests for ids that stay unknown are some ten per second, however many ids there are."""
    clock = Clock()
    subject = to(server, clock)
    ids = range(300)
    for _ in range(50):
        for schema_id in ids:
            refused(subject, schema_id)
        clock.now_s += 1
    repeats = len(server.asked) - len(ids)
    assert len(ids) <= repeats <= 10 * 50 + len(ids)
    clock.now_s += 100
    refused(subject, 7)
    assert len(subject._unknown) == 1, "what has expired is forgotten"


def test_an_id_that_is_registered_later_is_found(server: StandIn) -> None:
    clock = Clock()
    subject = to(server, clock)
    refused(subject, 7)
    server.add_id(7, SPAN)
    refused(subject, 7)
    clock.now_s += UNKNOWN_TTL_S
    assert subject.get(7) == SPAN
    assert subject.requests == {"ok": 1, "not_found": 1, "error": 0}


def test_one_unknown_id_does_not_hide_another(server: StandIn) -> None:
    server.add_id(2, SPAN)
    subject = to(server)
    refused(subject, 7)
    assert subject.get(2) == SPAN


def test_the_cache_of_unknown_ids_is_bounded(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_UNKNOWN", 3)
    subject = to(server)
    for schema_id in range(8):
        refused(subject, schema_id)
    assert len(subject._unknown) <= 3
    asked = len(server.asked)
    refused(subject, 7)
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"}, "Schema id 1 is of type PROTOBUF, not AVRO."),
        ({"schema": "{}", "schemaType": "JSON"}, "Schema id 1 is of type JSON, not AVRO."),
        ({"schema": "[" * 100_000}, "Schema id 1 is nested too deeply to be read."),
        ({"schema": "[" * DEEP + "]" * DEEP}, "Schema id 1 is nested too deeply to be read."),
        ({"schema": "{nonsense"}, "Schema id 1 is not JSON (Expecting property name enclosed in double quotes: line 1"),
    ],
    ids=["protobuf", "json schema", "nesting without end", "nesting too deep", "no json"],
)
def test_a_schema_that_is_not_avro_is_unusable_and_requested_once(
    server: StandIn, body: dict[str, str], error: str
) -> None:
    server.answers["/schemas/ids/1"] = (200, json.dumps(body).encode())
    subject = to(server)
    for _ in range(3):
        reason, sentence = refused(subject, 1)
        assert (reason, sentence[: len(error)]) == ("schema_unusable", error)
    assert len(server.asked) == 1
    assert subject.requests == {"ok": 1, "not_found": 0, "error": 0}


# Unavailable registries.

REFUSAL = "The schema registry at {} {}."
NOT_A_REGISTRY = "returned HTTP 404, so it is not a schema registry; check the path in schema_registry.url"


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (500, b'{"error_code": 50001, "message": "no"}', "returned HTTP 500; tokentrace retries until it recovers"),
        (503, b"<html>", "returned HTTP 503; tokentrace retries until it recovers"),
        (429, b"{}", "returned HTTP 429; tokentrace retries until it recovers"),
        (401, b'{"error_code": 401}', "rejects the credentials (HTTP 401); check schema_registry.auth"),
        (403, b"", "rejects the credentials (HTTP 403); check schema_registry.auth"),
        (404, b"<html>no page</html>", NOT_A_REGISTRY),
        (404, b'{"error_code": 404}', NOT_A_REGISTRY),
        (404, b"[]", NOT_A_REGISTRY),
    ],
)
def test_an_http_error_is_not_the_messages_fault(server: StandIn, status: int, body: bytes, what: str) -> None:
    server.otherwise = (status, body)
    subject = to(server)
    assert [unavailable(subject), unavailable(subject)] == [REFUSAL.format(server.url, what)] * 2
    assert server.asked.count("/schemas/ids/1") == 2
    assert subject.requests == {"ok": 0, "not_found": 0, "error": 2}


@pytest.mark.parametrize("code", [40401, 40402, 40403])
def test_registry_error_codes_distinguish_a_missing_schema_from_a_wrong_url(server: StandIn, code: int) -> None:
    server.otherwise = (404, b'{"error_code": %d, "message": "not found"}' % code)
    assert refused(to(server), 7) == ("unknown_schema_id", MISSING)
    assert server.asked == ["/schemas/ids/7"]


#: Answers of registries to an id that they do not have. The second is Apicurio's answer to ids from 2^31 on.
WORDS = [
    (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
    (404, b'{"error_code": 0, "message": "Unable to extract parameter from http request"}'),
    (404, b"<html>no page</html>"),
    (404, b""),
    (400, b"[]"),
    (410, b""),
    (422, b'{"error_code": 42201, "message": "not an id"}'),
]


@pytest.mark.parametrize(("status", "body"), WORDS)
@pytest.mark.parametrize("known", ["types", "schema"])
def test_an_id_that_a_registry_rejects_in_any_words_is_the_messages_fault(
    server: StandIn, known: str, status: int, body: bytes
) -> None:
    """The list of its types, or a schema that it had before, confirms that there is a registry."""
    server.otherwise = (status, body)
    subject = to(server)
    if known == "types":
        server.answers["/schemas/types"] = (200, b'["AVRO"]')
    else:
        server.add_id(1, SPAN)
        subject.get(1)
    assert refused(subject, 2**32 - 1) == (
        "unknown_schema_id",
        "The schema registry has no schema with id 4294967295.",
    )
    assert subject.requests["error"] == 0


def test_an_address_is_confirmed_once_for_many_ids(server: StandIn) -> None:
    server.otherwise = (404, b"")
    server.answers["/schemas/types"] = (200, b'["AVRO"]')
    clock = Clock()
    subject = to(server, clock)
    for schema_id in range(50):
        refused(subject, schema_id)
    assert server.asked.count("/schemas/types") == 1
    clock.now_s += CONFIRMED_TTL_S
    refused(subject, 50)
    assert server.asked.count("/schemas/types") == 2


def test_a_registry_that_is_gone_behind_its_proxy_is_not_the_messages_fault(server: StandIn) -> None:
    """The proxy answers 404 to everything, as before the registry came. What was known stays known."""
    server.otherwise = (404, b"<html>")
    server.answers["/schemas/types"] = (200, b'["AVRO"]')
    server.add_id(1, SPAN)
    clock = Clock()
    subject = to(server, clock)
    subject.get(1)
    refused(subject, 7)
    server.answers.clear()
    clock.now_s += CONFIRMED_TTL_S
    assert unavailable(subject, 8) == REFUSAL.format(server.url, NOT_A_REGISTRY)
    assert subject.get(1) == SPAN


@pytest.mark.parametrize(
    "body", [b"", b"<html>hello</html>", b"{}", b"[]", b"7", b'{"schema": ""}', b'{"schema": null}']
)
def test_a_response_without_a_schema_is_not_the_messages_fault(server: StandIn, body: bytes) -> None:
    server.otherwise = (200, body)
    subject = to(server)
    for _ in range(2):
        sentence = unavailable(subject)
        assert sentence.startswith(f"The schema registry at {server.url} ")
        assert sentence.endswith("; check schema_registry.url.")
    assert subject.requests == {"ok": 0, "not_found": 0, "error": 2}
    server.add_id(1, SPAN)
    assert subject.get(1) == SPAN


def test_a_timeout_is_not_the_messages_fault(server: StandIn) -> None:
    server.hang = True
    subject = to(server, timeout_s=0.2)
    sentence = unavailable(subject)
    assert sentence.startswith(f"The schema registry at {server.url} does not answer (ReadTimeout")
    assert sentence.endswith("); check schema_registry.url.")
    assert subject.requests == {"ok": 0, "not_found": 0, "error": 1}


def test_a_refused_connection_is_not_the_messages_fault() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        subject = Registry(RegistrySettings(url))
        assert unavailable(subject) == (
            f"The schema registry at {url} does not answer (ConnectError: [Errno 111] Connection refused); "
            "check schema_registry.url."
        )
    assert subject.requests == {"ok": 0, "not_found": 0, "error": 1}


def test_a_registry_that_recovers_is_used_at_once(server: StandIn) -> None:
    server.otherwise = (500, b"")
    subject = to(server)
    unavailable(subject)
    server.add_id(1, SPAN)
    assert subject.get(1) == SPAN
    assert subject.requests == {"ok": 1, "not_found": 0, "error": 1}


# References.

COST = record_schema("com.example.Cost", usd="double")
STATUS = {"type": "enum", "name": "com.example.Status", "symbols": ["ok", "error"]}
CALL = record_schema("com.example.Call", cost="Cost", status="Status")
OUTER = record_schema("Span", model="string", call="com.example.Call", again=["null", "com.example.Cost"])


def add_referring(server: StandIn) -> None:
    server.add_id(
        1, OUTER, ("com.example.Call", "call", 3), ("com.example.Cost", "cost", 1), ("com.example.Call", "call", 3)
    )
    server.add_subject("call", 3, CALL, ("com.example.Cost", "cost", 1), ("com.example.Status", "status-value", 12))
    server.add_subject("cost", 1, COST)
    server.add_subject("status-value", 12, STATUS)


STANDS_ALONE = record_schema(
    "Span",
    model="string",
    call=record_schema("com.example.Call", cost=COST, status=STATUS),
    again=["null", "com.example.Cost"],
)


def test_references_are_fetched_and_inlined(server: StandIn) -> None:
    add_referring(server)
    subject = to(server)
    assert subject.get(1) == subject.get(1) == STANDS_ALONE
    paths = ["/schemas/ids/1", "/subjects/call/versions/3", "/subjects/cost/versions/1"]
    assert server.asked == [*paths, "/subjects/status-value/versions/12"]
    assert subject.requests == {"ok": 4, "not_found": 0, "error": 0}


def test_a_missing_reference_is_cached_as_unknown(server: StandIn) -> None:
    add_referring(server)
    del server.answers["/subjects/status-value/versions/12"]
    clock = Clock()
    subject = to(server, clock)
    why = "Schema id 1 refers to status-value version 12, which the registry does not have."
    assert [refused(subject, 1), refused(subject, 1)] == [("unknown_schema_id", why)] * 2
    asked = list(server.asked)
    add_referring(server)
    clock.now_s += UNKNOWN_TTL_S
    assert subject.get(1) == STANDS_ALONE
    assert server.asked == [*asked, "/subjects/status-value/versions/12"]
    assert subject.requests == {"ok": 4, "not_found": 1, "error": 0}


def test_an_unavailable_reference_is_not_the_messages_fault(server: StandIn) -> None:
    add_referring(server)
    answer = server.answers["/subjects/cost/versions/1"]
    server.answers["/subjects/cost/versions/1"] = (500, b"")
    subject = to(server)
    assert unavailable(subject).endswith("returned HTTP 500; tokentrace retries until it recovers.")
    server.answers["/subjects/cost/versions/1"] = answer
    assert subject.get(1) == STANDS_ALONE
    assert subject.requests == {"ok": 4, "not_found": 0, "error": 1}


def test_a_reference_that_is_not_avro_makes_its_schema_unusable(server: StandIn) -> None:
    server.add_id(1, OUTER, ("com.example.Call", "call", 3))
    server.add_subject("call", 3, "{nonsense")
    reason, sentence = refused(to(server), 1)
    assert (reason, sentence.split(" (")[0]) == ("schema_unusable", "Schema id 1 is not JSON")


def test_schemas_that_refer_to_each_other_end(server: StandIn) -> None:
    server.add_id(1, record_schema("A", b=["null", "B"]), ("B", "b", 1))
    server.add_subject("b", 1, record_schema("B", c=["null", "C"]), ("C", "c", 1))
    server.add_subject("c", 1, record_schema("C", b=["null", "B"]), ("B", "b", 1))
    inner = record_schema("C", b=["null", "B"])
    b = record_schema("B", c=["null", {"namespace": "", **inner}])
    assert to(server).get(1) == record_schema("A", b=["null", {"namespace": "", **b}])


def test_an_incomplete_reference_is_left_alone(server: StandIn) -> None:
    body = {"schema": json.dumps(SPAN), "references": [{"name": "X"}]}
    server.answers["/schemas/ids/1"] = (200, json.dumps(body).encode())
    assert to(server).get(1) == SPAN


# Settings.


def test_credentials_are_sent_to_the_registry(server: StandIn) -> None:
    server.add_id(1, SPAN)
    to(server, credentials="user:pass:word").get(1)
    to(server, bearer_token="secret").get(1)
    to(server).get(1)
    basic = "Basic " + base64.b64encode(b"user:pass:word").decode()
    assert server.authorizations == [basic, "Bearer secret", None]


def test_a_path_of_the_address_is_kept(server: StandIn) -> None:
    server.answers["/apis/ccompat/v7/schemas/ids/1"] = (200, json.dumps({"schema": json.dumps(SPAN)}).encode())
    assert Registry(RegistrySettings(f"{server.url}/apis/ccompat/v7/")).get(1) == SPAN


@pytest.mark.parametrize(
    "settings",
    [
        RegistrySettings("ftp://registry"),
        RegistrySettings("http://registry", credentials="no-colon"),
        RegistrySettings("https://registry", ca="/does/not/exist.pem"),
        RegistrySettings("https://registry", certificate="/does/not/exist.pem", key="/does/not/exist.key"),
        RegistrySettings("https://registry", key="/does/not/exist.key"),
    ],
    ids=["scheme", "credentials", "ca", "certificate", "key alone"],
)
def test_invalid_settings_are_a_configuration_error(settings: RegistrySettings) -> None:
    with pytest.raises(ConfigError) as raised:
        Registry(settings)
    assert [problem[: len("schema_registry: ")] for problem in raised.value.problems] == ["schema_registry: "]


# Through the worker's own path.


def test_writer_schemas_find_ids_in_the_registry(server: StandIn, tmp_path: Path) -> None:
    server.add_id(5, SPAN)
    schemas = WriterSchemas.load([tmp_path], registry=to(server))
    key = SchemaKey("id", 5)
    with pytest.raises(SchemaUnavailable, match="not fetched yet"):
        schemas.get(key)
    assert schemas.fetch([key]) is None
    assert schemas.get(key) == SPAN
    assert schemas.requests == {"ok": 1, "not_found": 0, "error": 0}


def test_spans_of_registered_schemas_are_counted_and_others_rejected(server: StandIn) -> None:
    server.add_id(5, SPAN_SCHEMA)
    server.add_id(6, SPAN)
    rig = Harness(schemas=WriterSchemas.load(registry=to(server)))
    values = [
        confluent(5, datum(span())),
        confluent(7, b"x"),
        confluent(6, write(SPAN, {"model": "gpt-4o", "prompt_tokens": 3})),
    ]
    rig.count(values)
    rig.count(values, offset=3)
    letters = [(letter.envelope.offset, letter.reason, letter.error) for letter in rig.delta.dead_letters]
    assert letters == [(1, "unknown_schema_id", MISSING), (4, "unknown_schema_id", MISSING)]
    assert sum(rig.delta.counted.values()) == 4
    assert sorted(server.asked) == ["/schemas/ids/5", "/schemas/ids/6", "/schemas/ids/7"]


def test_a_batch_waits_for_an_unavailable_registry(server: StandIn) -> None:
    server.otherwise = (503, b"")
    rig = Harness(schemas=WriterSchemas.load(registry=to(server)))
    with pytest.raises(SchemaUnavailable, match="returned HTTP 503") as raised:
        rig.count([message(span()), confluent(5, datum(span())), b"junk", confluent(6, b""), message(span())])
    assert (raised.value.pending, raised.value.rows.tolist()) == (False, [1, 3])  # type: ignore[union-attr]
    assert not rig.delta
    server.add_id(5, SPAN_SCHEMA)
    rig.count([confluent(5, datum(span())), b"junk"])
    assert (dict(rig.delta.counted), dict(rig.delta.rejected)) == ({0: 1}, {0: 1})


def test_ids_are_fetched_in_the_order_of_their_first_messages(server: StandIn) -> None:
    fetched: list[object] = []

    class Recording(WriterSchemas):
        def fetch(self, keys: Iterable[SchemaKey]) -> SchemaUnavailable | None:
            fetched.extend(key.value for key in keys)
            return super().fetch([SchemaKey("id", value) for value in fetched])  # type: ignore[arg-type]

    rig = Harness(schemas=Recording(registry=to(server)))
    ids = random.Random(1).sample(range(2**32), 50)
    rig.count([b"junk", *(confluent(schema_id, b"") for schema_id in [*ids, *ids])])
    assert fetched == ids
    assert sorted(server.asked) == sorted(f"/schemas/ids/{schema_id}" for schema_id in ids)
    assert dict(rig.delta.reasons) == {"unknown_schema_id": 100, "unknown_framing": 1}


def test_a_slow_registry_is_asked_in_the_background(server: StandIn) -> None:
    """The decoder waits for a moment only, and finds the schema at a later try."""
    server.hang = True
    server.add_id(5, SPAN_SCHEMA)
    rig = Harness(schemas=WriterSchemas(registry=to(server), wait_s=0.01))
    values = [confluent(5, datum(span())), message(span())]
    with pytest.raises(SchemaUnavailable) as raised:
        rig.count(values)
    assert (raised.value.pending, raised.value.rows.tolist()) == (True, [0])  # type: ignore[union-attr]
    assert not rig.delta
    server.hang = False
    server.released.set()
    while not rig.delta:
        with suppress(SchemaUnavailable):
            rig.count(values)
    assert rig.delta.counted == {0: 2}


def test_the_registry_client_is_imported_only_where_a_registry_is_configured() -> None:
    """It takes as long to import as the rest of the decoder."""
    program = (
        "import sys\n"
        "from tokentrace.config import Config\n"
        "from tokentrace.runtime.schema_sources import writer_schemas\n"
        "for url in ('', 'http://localhost'):\n"
        "    kafka = {'bootstrap_servers': 'x:1', 'topic': 't'}\n"
        "    writer_schemas(Config.model_validate({'kafka': kafka, 'schema_registry': {'url': url}}))\n"
        "    print('confluent_kafka.schema_registry' in sys.modules)\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False", "True"]
