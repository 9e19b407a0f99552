"""`tokentrace config check`: the mistakes of operators, each found with its key, its line, and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.everyday_mistakes import EVERYDAY
from tests.config.other_forms import OTHER_FORMS
from tests.exposition.conftest import make_certificate
from tokentrace.config.reading import read_config
from tokentrace.errors import ConfigError
from tokentrace.tools.config_check import every_problem
from tokentrace.tools.config_warnings import warnings


def found(folder: Path, text: str, **environment: str) -> list[str]:
    """Return all problems of a file called mine.yml, with the folder's name left out."""
    path = folder / "mine.yml"
    path.write_text(text)
    try:
        problems = [problem.text(path) for problem in every_problem(read_config(path, environment))]
    except ConfigError as error:
        problems = error.problems
    return [problem.replace(f"{folder}/", "") for problem in problems]


#: Text of a file -> every line that the check prints.
MISTAKES = {
    # Types, in the words of the documentation.
    "worker:\n  batch_size: lots\n": ["worker.batch_size: must be a whole number, not the text 'lots' (line 2)"],
    "worker: {batch_size: 2.5}": ["worker.batch_size: must be a whole number, not 2.5 (line 1)"],
    "worker: {batch_size: [1]}": ["worker.batch_size: must be a whole number, not a list (line 1)"],
    "metrics: {zero_first: 1}": ["metrics.zero_first: must be true or false, not 1; write true (line 1)"],
    "metrics: {zero_first: maybe}": ["metrics.zero_first: must be true or false, not the text 'maybe' (line 1)"],
    "limits: {max_cost_usd: free}": ["limits.max_cost_usd: must be a number, not the text 'free' (line 1)"],
    "kafka: {topic: 2026}": ["kafka.topic: must be text, not a number; put it in quotes (line 1)"],
    "kafka: {topic: [a, b]}": ["kafka.topic: must be text, not a list (line 1)"],
    "worker:\n  deduplicate: on\n": ["worker.deduplicate: must be a section of keys, not true; write {window: 10m} (line 2)"],
    "schemas: [spans]": ["schemas: must be a section of keys, not a list; write each as NAME: VALUE (line 1)"],
    "limits:\nworker: {}": [
        "limits: must be a section of keys, and is empty; write its keys below it, with more spaces before them, or take its "
        "line out (line 1)"
    ],
    "schemas: {paths: spans}": ["schemas.paths: must be a list, not the text 'spans'; write [spans] (line 1)"],
    "alerts: {name: a}": ['alerts: must be a list, not a mapping of keys; begin each entry with "- " (line 1)'],
    "alerts: [spend]": ["alerts[0]: must be a section of keys, not the text 'spend' (line 1)"],
    "kafka: {properties: {client.rack: [a]}}": ["kafka.properties.client.rack: must be text, a number, or true or false (line 1)"],
    "http_server: {tls: {certificate: a, key: b, min_version: 1.3}}": [
        'http_server.tls.min_version: must be 1.2 or 1.3, not 1.3; put it in quotes: "1.3" (line 1)',
        "http_server.tls.certificate: the file a does not exist (line 1)",
        "http_server.tls.key: the file b does not exist (line 1)",
    ],
    # Keys and values that are almost right.
    "worker:\n  commit_intervall: 2s\n": ['worker.commit_intervall: unknown key; did you mean "commit_interval"? (line 2)'],
    "batch_size: 5": ["batch_size: unknown key; did you mean worker.batch_size? (line 1)"],
    "kafka:\n  prometheus_path: /m\n": ["kafka.prometheus_path: unknown key; did you mean http_server.prometheus_path? (line 2)"],
    "worker: {log_level: INFO}": ["worker.log_level: must be debug, info, warning or error, not the text 'INFO'; did you mean \"info\"? (line 1)"],
    "alerts: [{name: a, metric: total_cost, op: '<=', threshold: 1, window: 1h}]": [
        "alerts[0].op: must be gt, gte, lt or lte, not the text '<='; did you mean \"lte\"? (line 1)"
    ],
    "worker: {session_timeout: 1 min}": [
        "worker.session_timeout: invalid duration '1 min'; did you mean 1m? (line 1)"
    ],
    # Addresses and names.
    "kafka:\n  bootstrap_servers: http://kafka-1:9092\n": [
        "kafka.bootstrap_servers: 'http://kafka-1:9092' is not a broker; write host:port, such as kafka-1:9092 (line 2)"
    ],
    "kafka: {bootstrap_servers: ['kafka-1:9092', 'kafka://kafka-2:9092']}": [
        "kafka.bootstrap_servers: 'kafka://kafka-2:9092' is not a broker; write host:port, such as kafka-1:9092 (line 1)"
    ],
    "kafka: {bootstrap_servers: 'kafka-1:90920'}": [
        "kafka.bootstrap_servers: '**********' is not a broker; write host:port, such as kafka-1:9092 (line 1)"
    ],
    "kafka: {topic: spans/all}": [
        "kafka.topic: the name of a topic has letters, digits, dots, underscores and hyphens alone, not '/' (line 1)"
    ],
    "kafka: {dead_letter_topic: ..}": ["kafka.dead_letter_topic: .. is not a name of a topic (line 1)"],
    f"kafka: {{topic: {'a' * 250}}}": ["kafka.topic: names of topics have at most 249 characters, not 250 (line 1)"],
    "kafka: {group_id: team a}": [
        "kafka.group_id: begins the names of tokentrace's own topics, and the name of a topic has letters, digits, dots, "
        "underscores and hyphens alone, not ' ' (line 1)"
    ],
    "schema_registry: {url: 'https://'}": ["schema_registry.url: is not a valid URL; write https://host:port/path without spaces (line 1)"],
    "schema_registry: {url: 'http://registry:http'}": ["schema_registry.url: is not a valid URL; its port must be a number from 0 to 65535 (line 1)"],
    "alerts: [{name: a, kind: quality_drop, delivery: {type: http, url: hooks.example.com}}]": [
        "alerts[0].delivery.url: is required by type http, and must begin with http:// or https:// (line 1)"
    ],
    # Properties of librdkafka.
    "kafka:\n  properties:\n    ssl.ca.locaton: ca.pem\n": [
        'kafka.properties.ssl.ca.locaton: is not a property of librdkafka; did you mean "ssl.ca.location"? (line 3)'
    ],
    "kafka:\n  properties:\n    security.protocol: SASL\n": [
        "kafka.properties.security.protocol: 'SASL' is not a valid value; use plaintext, ssl, sasl_plaintext or sasl_ssl (line 3)"
    ],
    "kafka: {properties: {socket.timeout.ms: 1}}": ["kafka.properties.socket.timeout.ms: value 1 is outside allowed range 10..300000 (line 1)"],
    "kafka: {properties: {socket.keepalive.enable: sure}}": ["kafka.properties.socket.keepalive.enable: must be true or false (line 1)"],
    "kafka: {properties: {ssl.keystore.type: JKS}}": None,
    "kafka: {properties: {security.protocol: ssl, ssl.ca.location: /nowhere/ca.pem}}": [
        "kafka.properties.ssl.ca.location: the file /nowhere/ca.pem does not exist (line 1)"
    ],
    "kafka:\n  properties:\n    sasl.username: reader\n    sasl.password: secret\n": [
        "kafka.properties.sasl.username: has no effect with security.protocol plaintext; set that to sasl_ssl or sasl_plaintext (line 3)",
        "kafka.properties.sasl.password: has no effect with security.protocol plaintext; set that to sasl_ssl or sasl_plaintext (line 4)",
    ],
    "kafka: {properties: {security.protocol: sasl_ssl}}": [
        "kafka.properties.security.protocol: needs a sasl.mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER (line 1)"
    ],
    "kafka: {properties: {security.protocol: sasl_ssl, sasl.mechanism: PLAIN, sasl.username: reader}}": [
        "kafka.properties.sasl.mechanism: PLAIN needs sasl.password (line 1)"
    ],
    "kafka: {properties: {acks: 1}}": ["kafka.properties.acks: `acks` must be set to `all` when `enable.idempotence` is true (line 1)"],
    "worker:\n  session_timeout: 10m\n": ["worker.session_timeout: `max.poll.interval.ms`must be >= `session.timeout.ms` (line 2)"],
    "kafka:\n  properties:\n    fetch.min.byte: 1\n    group.id: x\n    linger.ms: soon\n": [
        'kafka.properties.fetch.min.byte: is not a property of librdkafka; did you mean "fetch.min.bytes"? (line 3)',
        "kafka.properties.group.id: is managed by tokentrace; set kafka.group_id instead (line 4)",
        "kafka.properties.linger.ms: 'soon' is not a valid value (line 5)",
    ],
    # Files.
    "http_server: {tls: {certificate: tls.crt, key: tls.key, client_ca: ca.crt}}": [
        "http_server.tls.certificate: the file tls.crt does not exist (line 1)",
        "http_server.tls.key: the file tls.key does not exist (line 1)",
        "http_server.tls.client_ca: the file ca.crt does not exist (line 1)",
    ],
    "http_server:\n  admin_token_file: token\n": ["http_server.admin_token_file: the file token does not exist (line 2)"],
    "schema_registry: {url: 'https://r', tls: {ca: ca.pem}}": ["schema_registry.tls.ca: the file ca.pem does not exist (line 1)"],
    "schema_registry: {url: 'https://r', tls: {key: a.key}}": [
        "schema_registry.tls.certificate: is required; it is the certificate of key (line 1)"
    ],
    "schemas:\n  paths: [., avro]\n": [
        "schemas.paths[0]: {folder} has no .avsc files (line 2)",
        "schemas.paths[1]: avro is not a folder (line 2)",
    ],
    "schemas: {raw: span.avsc}": ["schemas.raw: span.avsc cannot be read (No such file or directory) (line 1)"],
    "kafka:\n  framing: raw\n": ["kafka.framing: raw requires schemas.raw, the schema file (line 2)"],
    # Rules, and whatever contradicts another key.
    "alerts:\n  - {name: a, kind: quality_drop}\n  - {name: b, kind: quality_drop}\n  - {name: a, kind: cost_spike, threshold: 1}\n": [
        "alerts[2].name: alerts[0] is named 'a' too (line 4)"
    ],
    "alerts: [{name: a, metric: error_rate, op: gt, threshold: 5, window: 5m}]": [
        "alerts[0].threshold: error_rate is between 0 and 1, so 5 is never passed; 5 % is 0.05 (line 1)"
    ],
    "alerts: [{name: a, kind: cost_spike, threshold: -1}]": [
        "alerts[0].threshold: total_cost is never below 0, so whether it is above -1 is fixed (line 1)"
    ],
    "alerts: [{name: a, kind: quality_drop, window: 5m, interval: 10m}]": [
        "alerts[0].interval: is longer than the window 5m, so spans between two windows are not seen (line 1)"
    ],
    "health: {max_commit_age: 5s}\nworker: {commit_interval: 10s}": [
        "health.max_commit_age: must be longer than worker.commit_interval (line 1)"
    ],
    "metrics:\n  labels:\n    cost_total: [model]\n    tokentrace_cost_total: [caller]\n": [
        "metrics.labels.tokentrace_cost_total: the labels of cost_total are set twice, with and without tokentrace_ (line 4)"
    ],
    "http_server: {auth_token: a, auth_token_file: t, admin_token: a}": [
        "http_server.auth_token_file: set either auth_token or auth_token_file (line 1)",
        "http_server.admin_token: must differ from auth_token, which every scraper has (line 1)",
    ],
    "http_server: {prometheus_path: /health}": ["http_server.prometheus_path: must differ from health_path /health and its own (line 1)"],
    # YAML.
    "- kafka": ["mine.yml: the top level must be a mapping of sections, such as `kafka:` with its keys below it (line 1)"],
    "kafka: {topic: a}\nworker: {}\nkafka: {topic: b}": ["kafka: is defined twice (line 3)"],
    "kafka:\n\ttopic: a\n": ["mine.yml: is not valid YAML: a tab is before the key; use spaces (line 2)"],
    "kafka: &k\n  properties: *k\n": ["mine.yml: is nested too deeply, or contains an alias of itself"],
    # Several at once: a wrong value hides none of the rules between the others.
    "kafka: {topic: a, dead_letter_topic: a, framing: xml}\nworker: {guarantee: at_least_once, batch_size: x}\n"
    "alerts:\n  - {name: a, kind: quality_drop, severity: high}\n  - {name: a, kind: quality_drop, group_by: [modle, tema]}\n": [
        "kafka.framing: must be auto, confluent, apicurio, single_object, glue, raw, json, otlp_proto or otlp_json, not the text 'xml' (line 1)",
        "kafka.dead_letter_topic: must differ from topic (line 1)",
        "worker.batch_size: must be a whole number, not the text 'x' (line 2)",
        "worker.guarantee: alerts require exactly_once, which writes the rollups that they read (line 2)",
        "alerts[0].severity: must be info, warning or critical, not the text 'high'; did you mean \"critical\"? (line 4)",
        "alerts[1].group_by[0]: 'modle' is neither a dimension nor one of model, provider, caller; did you mean \"model\"? (line 5)",
        "alerts[1].group_by[1]: 'tema' is neither a dimension nor one of model, provider, caller; declare tema in dimensions, "
        "or take it out (line 5)",
        "alerts[1].name: alerts[0] is named 'a' too (line 5)",
    ],
    "kafka: {properties: {sasl.password: '${NONE}', sasl.user: a}}\nalerts: [{metric: x, op: gt}]": [
        "kafka.properties.sasl.password: the environment variable NONE is not set; set it or use ${NONE:-default} (line 1)",
        'kafka.properties.sasl.user: is not a property of librdkafka; did you mean "sasl.username"? (line 1)',
        "alerts[0].name: is required (line 2)",
        None,
        "alerts[0].threshold: is required, for example threshold: 25 (line 2)",
        "alerts[0].window: is required, for example window: 1h (line 2)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:60].replace("\n", " "))
def test_a_mistake_is_found_with_its_key_and_line(tmp_path: Path, text: str) -> None:
    expected = MISTAKES[text]
    lines = found(tmp_path, text)
    if expected is None:
        assert len(lines) == 1
        return
    expected = [line if line is None else line.replace("{folder}", str(tmp_path)) for line in expected]
    assert [line for line, wanted in zip(lines, expected, strict=True) if wanted is not None] == [
        line for line in expected if line is not None
    ]


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ('worker: {batch_size: "${X}"}', "500"),
        ('worker: {leave_on_stop: "${X}"}', "true"),
        ('limits: {max_cost_usd: "${X}"}', "2.5"),
        ('metrics: {buckets: {latency_ms: ["${X}", 100]}}', "50"),
        ('alerts: [{name: a, kind: cost_spike, threshold: "${X}", min_spans: "${X}"}]', "3"),
        ('kafka: {properties: {client.rack: "${X}"}}', "7"),
        ('http_server: {auth_token: "${X}"}', "12345"),
    ],
)
def test_a_quoted_variable_is_read_as_its_key_requires(tmp_path: Path, text: str, variable: str) -> None:
    assert found(tmp_path, text, X=variable) == []


@pytest.mark.parametrize("text", [*EVERYDAY, *OTHER_FORMS], ids=lambda text: text[:60].replace("\n", " "))
def test_an_everyday_mistake_is_found_with_its_key_and_line(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, text, EMPTY="") == (EVERYDAY | OTHER_FORMS)[text]


def test_a_secret_that_looks_like_a_variable_can_come_from_one(tmp_path: Path) -> None:
    assert found(tmp_path, 'http_server: {auth_token: "${X}"}', X="$NAME") == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("kafka: {topic: a}\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8 (line 1)"),
        ("kafka: {topic: a}\n".encode("utf-16-be"), "is UTF-16 text; save it as UTF-8 (line 1)"),
        (
            "kafka:\n  topic: abc\u00e9\n".encode("latin-1"),
            "is not UTF-8 text, its byte 19 is 0xe9; save it as UTF-8 (line 2)",
        ),
    ],
)
def test_a_file_in_another_encoding_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "mine.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_config(path, {})
    assert raised.value.problems == [f"{path}: {problem}"]


def test_a_byte_order_mark_and_lines_of_windows_move_no_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_bytes("\ufeffkafka:\r\n  topik: a\r\n".encode())
    assert [problem.text(path) for problem in read_config(path, {}).problems] == [
        'kafka.topik: unknown key; did you mean "topic"? (line 2)'
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "pricing:\n  models:\n    gpt-4o: {prompt_per_1m: 0.0025, completion_per_1m: 10}\n",
            ["pricing.models.gpt-4o.prompt_per_1m: prices are in USD per million tokens; 0.0025 is far from the 2.5 of the built-in table (line 3)"],
        ),
        (
            "pricing:\n  models:\n    - {model: gpt-4o*, provider: openai, rates: {prompt: 2500, completion: 10}}\n",
            ["pricing.models[0].rates.prompt: prices are in USD per million tokens; 2500 is far from the 2.5 of the built-in table (line 3)"],
        ),
        (
            "pricing:\n  models:\n    mine: {prompt_per_1m: 0.00025, completion_per_1m: 0}\n",
            ["pricing.models.mine.prompt_per_1m: prices are in USD per million tokens, and 0.00025 is less than any (line 3)"],
        ),
        ("pricing:\n  models:\n    gpt-4o: {prompt_per_1m: 1.25, completion_per_1m: 0}\n", []),
        (
            "pricing:\n  models:\n    mine: {prompt_per_1m: 2, completion_per_1m: 3, cached_prompt_per_1m: 20}\n",
            ["pricing.models.mine.cached_prompt_per_1m: cached tokens cost more than the 2 of others (line 3)"],
        ),
        (
            "alerts:\n- {name: a, metric: quality_score, op: gt, threshold: 0.75, window: 5m}\n",
            ["alerts[0].op: the rule fires while quality_score is high, which is good; write lt? (line 2)"],
        ),
        (
            "alerts:\n- {name: a, metric: error_rate, op: lt, threshold: 0.05, window: 5m}\n",
            ["alerts[0].op: the rule fires while error_rate is low, which is good; write gt? (line 2)"],
        ),
        (
            "metrics:\n  buckets:\n    latency_ms: [0.1, 1, 10]\n",
            ["metrics.buckets.latency_ms: the bounds are in milliseconds, and the last one is 10 (line 3)"],
        ),
        (
            "kafka:\n  properties: {security.protocol: ssl, enable.ssl.certificate.verification: no}\n",
            ["kafka.properties.enable.ssl.certificate.verification: the brokers' certificates are not verified, so that anybody between can read and answer; set ssl.ca.location instead (line 2)"],
        ),
    ],
    ids=lambda value: str(value)[:60].replace("\n", " "),
)  # fmt: skip
def test_check_warns_of_what_is_rarely_meant(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(text)
    reading = read_config(path, {})
    assert every_problem(reading) == []
    assert [warning.text(path) for warning in warnings(reading)] == expected


def test_a_rare_choice_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(
        "worker: {session_timeout: 3s}\n"
        "alerts: [{name: a, metric: latency_p95, op: gt, threshold: 3, window: 5m}]\n"
        "pricing: {discounts: [{provider: openai, percent: 0.125}]}\n"
    )
    reading = read_config(path, {})
    assert every_problem(reading) == []
    assert [warning.text(path) for warning in warnings(reading)] == [
        "worker.session_timeout: brokers accept 6s or more, unless group.min.session.timeout.ms is less (line 1)",
        "alerts[0].threshold: latency_p95 is in milliseconds, so 3 is 0.003 seconds (line 2)",
        "pricing.discounts[0].percent: 0.125 is less than one percent; an eighth is 12.5 (line 3)",
    ]


def test_a_quoted_variable_of_the_wrong_type_is_a_problem(tmp_path: Path) -> None:
    assert found(tmp_path, 'worker: {batch_size: "${X}"}', X="many") == [
        "worker.batch_size: must be a whole number, not the text 'many' (line 1)"
    ]
    # Without a variable the quotes are the mistake.
    assert len(found(tmp_path, 'worker: {batch_size: "5"}')) == 1


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 4000, "9" * 1001], ids=["decimal", "hex", "1001"])
def test_a_number_with_too_many_digits_is_a_problem(tmp_path: Path, digits: str) -> None:
    """Python refuses to write such an integer, and to read it from decimal digits."""
    many = "worker.batch_size: is a number of more than 1,000 digits; put it in quotes if it is text (line 2)"
    assert found(tmp_path, f"worker:\n  batch_size: {digits}") == [many]
    assert found(tmp_path, "worker:\n  batch_size: ${X}", X=digits) == [many]
    quoted = f"worker.batch_size: must be a whole number, not the text '{digits[:60]}' (line 1)"
    assert found(tmp_path, 'worker: {batch_size: "${X}"}', X=digits) == [quoted]


def test_certificate_and_key_that_do_not_belong_together_are_found(tmp_path: Path) -> None:
    make_certificate(tmp_path / "a")
    make_certificate(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "tls.crt").write_text("not a certificate")
    tls = "http_server: {{tls: {{certificate: {0}/tls.crt, key: {1}/tls.key, client_ca: {2}/tls.crt}}}}"
    assert found(tmp_path, tls.format("a", "a", "b")) == []
    assert found(tmp_path, tls.format("a", "b", "b")) == [
        "http_server.tls.key: b/tls.key is not the key of the certificate a/tls.crt (line 1)"
    ]
    (invalid, authority) = found(tmp_path, tls.format("c", "a", "c"))
    assert invalid.startswith(
        "http_server.tls.certificate: c/tls.crt and a/tls.key are not a certificate and its key in PEM ("
    )
    assert authority.startswith("http_server.tls.client_ca: c/tls.crt is not a certificate in PEM (")
    (tmp_path / "token").write_text("\n")
    assert found(tmp_path, "http_server: {auth_token_file: token}") == [
        "http_server.auth_token_file: the file token is empty, which would disable authentication (line 1)"
    ]


def test_a_secret_is_in_no_problem(tmp_path: Path) -> None:
    text = (
        "kafka: {properties: {security.protocol: ssl, ssl.key.pem: PLANT-1, sasl.password: PLANT-2, sasl.passwort: PLANT-3}}\n"
        "http_server: {auth_token: 4100}\nschema_registry: {url: 'http://u:PLANT-4@h:x/'}\n"
        "alerts:\n- {name: a, kind: quality_drop, delivery: {type: http, url: 'hooks/PLANT-5'}}\n"
        "- {name: b, kind: quality_drop, delivery: {type: http, url: 'https://h', headers: 'A: PLANT-6'}}\n"
        "ledger: 'postgresql://u:PLANT-7@h/db'\n"
    )
    lines = "\n".join(found(tmp_path, text))
    assert len(lines.splitlines()) >= 5
    assert "PLANT" not in lines
    assert "4100" not in lines


def test_a_window_beyond_the_usual_retention_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(
        "alerts:\n- {name: a, kind: cost_spike, threshold: 1, window: 30d}\n- {name: b, kind: quality_drop}\n"
    )
    reading = read_config(path, {})
    assert every_problem(reading) == []
    assert [warning.text(path) for warning in warnings(reading)] == [
        "alerts[0].window: 30d requires that topic 'tokentrace.rollups' retains that much; a worker creates it so, and "
        "an existing one needs retention.ms=2678400000 (line 2)"
    ]
