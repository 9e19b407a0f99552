"""`tokentrace.yml`: every problem is reported in one line with its location; no value is silently misread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.services import ROOT
from tokentrace.aggregate.validate import Limits
from tokentrace.config import Config, load_config
from tokentrace.config.docs import _sections, json_schema, markdown_table
from tokentrace.config.kafka import MANAGED_PROPERTIES
from tokentrace.errors import ConfigError
from tokentrace.model.durations import format_duration
from tokentrace.runtime.settings import leaves_on_stop, span_limits


def load(tmp_path: Path, text: str, **environment: str) -> Config:
    path = tmp_path / "tokentrace.yml"
    path.write_text(text)
    return load_config(path, environment)


def problems(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environment)
    return caught.value.problems


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load(tmp_path, "# nothing\n") == Config()


def test_shipped_file_has_every_key_with_its_default() -> None:
    config = load_config(ROOT / "tokentrace.yml", {})
    assert config == Config()
    text = (ROOT / "tokentrace.yml").read_text()
    for key, field in keys(Config):
        leaf = re.escape(field.alias or key.replace("[]", "").rsplit(".", 1)[-1])
        assert re.search(rf"\b{leaf}\b", text), f"{key} is not in tokentrace.yml"


def test_shipped_file_is_valid_with_its_comments_enabled(tmp_path: Path) -> None:
    """Enable every setting that is commented out."""
    text = (ROOT / "tokentrace.yml").read_text()
    text = re.sub(r"^(\w+): (\[\]|\{\}).*\n(?=# )", r"\1:\n", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)(\w+): \{\}.*\n(?= *#  )", r"\1\2:\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(  )#  (?=\S)", r"\1  ", text, flags=re.MULTILINE)
    text = re.sub(r"^(  )# (?=\w+: )", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^#(?=  )", "", text, flags=re.MULTILINE)
    (tmp_path / "my-span.avsc").write_text("{}")
    names = set(re.findall(r"\$\{(\w+)", text)) - {"VAR"}
    config = load(tmp_path, text, **dict.fromkeys(names, "value") | {"TOKENTRACE_HASH_KEY": "a key for this test"})
    assert list(config.dimensions) == ["team", "user"]
    assert config.worker.deduplicate is not None
    assert config.http_server.auth_token is not None
    assert config.kafka.properties["sasl.password"] == "value"
    assert config.pricing.models["house-llm*"].prompt_per_1m == Decimal("0.4")
    assert [rule.name for rule in config.alerts] == ["spend", "slow-search"]


ERRORS = {
    "kafka:\n  bootstrap_server: x": [
        'kafka.bootstrap_server: unknown key; did you mean "bootstrap_servers"? (line 2)'
    ],
    "kafak: {}": ['kafak: unknown key; did you mean "kafka"? (line 1)'],
    "kafka: {zzz: 1}": ["kafka.zzz: unknown key; the keys here are bootstrap_servers, topic, group_id, framing, dead_letter_topic, start, group_protocol, properties (line 1)"],
    "worker:\n  commit_interval: 5": ["worker.commit_interval: invalid duration 5; use a number and a unit, e.g. 500ms, 15s, 5m, 1h (line 2)"],
    "worker:\n  commit_interval: soon": ["worker.commit_interval: invalid duration 'soon'; use a number and a unit, e.g. 500ms, 15s, 5m, 1h (line 2)"],
    "worker: {commit_interval: 0s}": ["worker.commit_interval: must be longer than zero (line 1)"],
    "worker: {batch_size: 0}": ["worker.batch_size: must be at least 1, not 0 (line 1)"],
    "worker: {batch_size: '10'}": ["worker.batch_size: must be a whole number, not the text '10'; write 10 (line 1)"],
    "worker: {guarantee: exactly-once}": ["worker.guarantee: must be exactly_once or at_least_once, not the text 'exactly-once'; did you mean \"exactly_once\"? (line 1)"],
    "kafka: {framing: raw}": ["kafka.framing: raw requires schemas.raw, the schema file (line 1)"],
    "kafka: {topic: ''}": ["kafka.topic: must not be empty (line 1)"],
    "kafka: {topic: a, dead_letter_topic: a}": ["kafka.dead_letter_topic: must differ from topic (line 1)"],
    "kafka: {bootstrap_servers: ' , '}": ["kafka.bootstrap_servers: must contain at least one broker, host:port (line 1)"],
    "kafka:\n  properties:\n    group.id: x": ["kafka.properties.group.id: is managed by tokentrace; set kafka.group_id instead (line 3)"],
    "http_server: {addr: '9090'}": ["http_server.addr: '9090' is not a valid address; use for example \":9090\", \"127.0.0.1:9090\" or \"[::1]:9090\" (line 1)"],
    "http_server: {addr: ':99999'}": ["http_server.addr: ':99999' is not a valid address; use for example \":9090\", \"127.0.0.1:9090\" or \"[::1]:9090\" (line 1)"],
    "http_server: {prometheus_path: metrics}": None,
    "http_server: {auth_token: ''}": None,
    "http_server: {tls: {certificate: a}}": ["http_server.tls.key: is required, for example key: tls.key (line 1)"],
    "metrics: {buckets: {latency_ms: [5, 1]}}": ["metrics.buckets.latency_ms: must be in ascending order (line 1)"],
    "metrics: {buckets: {latency_ms: []}}": None,
    "metrics: {buckets: {latency_ms: [1, .inf]}}": ["metrics.buckets.latency_ms: must contain positive, finite numbers; the +Inf bucket is added automatically (line 1)"],
    "metrics: {labels: {cost_totl: [model]}}": None,
    "metrics: {labels: {cost_total: [modl]}}": ["metrics.labels.cost_total: 'modl' is neither a dimension nor one of status, model, provider, caller; did you mean \"model\"? (line 1)"],
    "dimensions: {team: {source: attributes.team}}\nmetrics: {labels: {tokentrace_cost_total: [taem]}}": ["metrics.labels.cost_total: 'taem' is neither a dimension nor one of status, model, provider, caller; did you mean \"team\"? (line 2)"],
    "dimensions: {team: {source: attribute.team}}": ["dimensions.team.source: 'attribute.team' is not a source; write attributes.team (line 1)"],
    "dimensions: {team: {}}": ["dimensions.team.source: is required, for example source: attributes.team (line 1)"],
    "dimensions: {team: {source: attributes.}}": None,
    "dimensions: {team: {source: span.span_id}}": None,
    "dimensions: {Team: {source: key}}": ["dimensions.Team: a name has lower-case letters, digits and _, and begins with a letter; write team (line 1)"],
    "dimensions: {le: {source: key}}": ["dimensions.le: is the name of a label that series have already; choose another name (line 1)"],
    "dimensions: {token_type: {source: key}}": None,
    "dimensions: {model: {source: key}}": None,
    "dimensions: {" + ", ".join(f"d{number}: {{source: key}}" for number in range(9)) + "}": ["dimensions.d8: is one too many; there may be 8 dimensions (line 1)"],
    "dimensions: {user: {source: key, hash: true}}": ["dimensions.user.hash: requires hash_key, for example ${TOKENTRACE_HASH_KEY} (line 1)"],
    "dimensions: {user: {source: key, hash: true, hash_key: short}}": ["dimensions.user.hash_key: must have at least 16 characters: short keys are guessed (line 1)"],
    "dimensions: {user: {source: key, hash: true, hash_key: '${KEY}'}}": ["dimensions.user.hash_key: the environment variable KEY is not set; set it or use ${KEY:-default} (line 1)"],
    "dimensions: {user: {source: key, hash_key: 0123456789abcdef}}": ["dimensions.user.hash_key: has no effect without hash: true (line 1)"],
    "dimensions: {user: {source: key, hash: true, hash_key: 0123456789abcdef, map: {a: b}}}": None,
    "dimensions: {team: {source: key, default: %s}}" % ("x" * 101): None,
    "dimensions: {team: {source: key, limit: 0}}": None,
    "dimensions: {team: {source: key}}\nalerts: [{name: a, kind: quality_drop, filter: {team: 1}}]": None,
    "metrics: {labels: {cost_total: [model, model]}}": ["metrics.labels.cost_total: contains a label twice (line 1)"],
    "metrics: {max_groups: 0}": None,
    "pricing: {models: {x: {prompt_per_1m: -1, completion_per_1m: 1}}}": None,
    "pricing: {models: {x: {prompt_per_1m: many, completion_per_1m: 1}}}": None,
    "pricing: {models: {x: {prompt_per_1m: 1}}}": ["pricing.models.x.completion_per_1m: is required, for example completion_per_1m: 10 (line 1)"],
    "schema_registry: {auth: {username: a}}": None,
    "schema_registry: {url: ftp://x}": None,
    "alerts: [{name: a, metric: total_cots, op: gt, threshold: 1, window: 5m}]": None,
    "alerts: [{name: a, kind: cost_spike}]": ["alerts[0].threshold: is required, for example threshold: 25 (line 1)"],
    "alerts:\n  - {name: a, kind: quality_drop}\n  - {name: a, kind: quality_drop}": ["alerts[1].name: alerts[0] is named 'a' too (line 3)"],
    "alerts: [{name: a, kind: quality_drop, delivery: {type: http}}]": None,
    "alerts: [{name: a, kind: quality_drop, window: 367d}]": ["alerts[0].window: must not be longer than 366d (line 1)"],
    "alerts: [{name: a, kind: quality_drop, window: 90s}]": ["alerts[0].window: 90s is not a whole number of minutes; use for example 1m, 15m or 1h (line 1)"],
    "alerts: [{name: a, kind: quality_drop, interval: 30s}]": None,
    "alerts: [{name: a, kind: quality_drop, group_by: [model, model]}]": None,
    "alerts: [{name: a, kind: quality_drop, group_by: [status]}]": ["alerts[0].group_by[0]: 'status' is neither a dimension nor one of model, provider, caller; the metrics error_rate, error_count and timeout_rate are of one status (line 1)"],
    "alerts: [{name: a, kind: quality_drop, filter: {team: x}}]": ["alerts[0].filter.team: 'team' is neither a dimension nor one of model, provider, caller; declare team in dimensions, or take it out (line 1)"],
    "alerts: [{name: a, kind: quality_drop, delivery: {type: http, url: ftp://x}}]": ["alerts[0].delivery.url: is required by type http, and must begin with http:// or https:// (line 1)"],
    "alerts: [{name: a, kind: quality_drop, delivery: {url: http://x}}]": None,
    "alerts: [{name: a, kind: quality_drop, min_spans: -1}]": None,
    "worker: {guarantee: at_least_once}\nalerts: [{name: a, kind: quality_drop}]": None,
    "ledger: {in_worker: true}": ["ledger.url: is required by in_worker: the database that all workers reach (line 1)"],
    "ledger: {url: mysql://a/b}": ["ledger.url: must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE (line 1)"],
    "worker: {guarantee: at_least_once}\nledger: {in_worker: true, url: sqlite:///x}": ["worker.guarantee: the ledger requires exactly_once, which writes the rollups that it reads (line 1)"],
    "worker: {guarantee: at_least_once}\nbudgets: [{name: a, amount: 1}]": ["worker.guarantee: budgets require exactly_once, which writes the rollups that they read (line 1)"],
    "budgets: [{name: a}]": ["budgets[0].amount: is required, for example amount: 100 (line 1)"],
    "budgets: [{name: a, amount: 0}]": ["budgets[0].amount: 0 is not a likely amount; it must be more than 0 and at most 1,000,000,000,000 USD (line 1)"],
    "budgets: [{name: a, amount: 0.0000000001}]": ["budgets[0].amount: 1e-10 has more than nine decimals; the smallest amount is a nano-dollar (line 1)"],
    "budgets: [{name: a, amount: much}]": ["budgets[0].amount: 'much' is not a valid amount in USD (line 1)"],
    "budgets: [{name: a, amount: 1, period: year}]": None,
    "budgets: [{name: a, amount: 1, time_zone: Europe/Berlim}]": ["budgets[0].time_zone: 'Europe/Berlim' is not a time zone; did you mean \"Europe/Berlin\"? (line 1)"],
    "budgets: [{name: a, amount: 1, time_zone: 7}]": None,
    "budgets: [{name: a, amount: 1, time_zone: ../passwd}]": None,
    "budgets: [{name: a, amount: 1, thresholds: [80, 50]}]": ["budgets[0].thresholds: must be in ascending order, each once (line 1)"],
    "budgets: [{name: a, amount: 1, thresholds: [0]}]": None,
    "budgets: [{name: a, amount: 1, group_by: [team]}]": ["budgets[0].group_by[0]: 'team' is neither a dimension nor one of model, provider, caller; declare team in dimensions, or take it out (line 1)"],
    "budgets: [{name: a, amount: 1, filter: {team: x}}]": ["budgets[0].filter.team: 'team' is neither a dimension nor one of model, provider, caller; declare team in dimensions, or take it out (line 1)"],
    "budgets: [{name: a, amount: 1, delivery: {type: http}}]": None,
    "alerts: [{name: a, kind: quality_drop}]\nbudgets: [{name: a, amount: 1}]": ["budgets[0].name: alerts[0] is named 'a' too (line 2)"],
    "limits: {max_cost_usd: 0}": ["limits.max_cost_usd: must be more than 0, not 0 (line 1)"],
    "limits: {max_cost_usd: 2000000}": ["limits.max_cost_usd: must be at most 1,000,000, not 2000000 (line 1)"],
    "limits: {max_tokens: 2000000000}": ["limits.max_tokens: must be at most 1,000,000,000, not 2000000000 (line 1)"],
    "limits: {max_latency: 12d}": ["limits.max_latency: must be at most 1000000s (line 1)"],
    "metrics: {expire_after: 9m}": ["metrics.expire_after: must be at least 10m (line 1)"],
    "- a list": ["{path}: the top level must be a mapping of sections, such as `kafka:` with its keys below it (line 1)"],
    "a: [": None,
    "kafka: {topic: a}\nkafka: {topic: b}": ["kafka: is defined twice (line 2)"],
    "kafka: text": None,
    "http_server: {auth_token: '${TOKEN-secret}'}": ["http_server.auth_token: has a ${ that begins no variable; write ${NAME}, ${NAME:-default}, or $${ for a literal ${ (line 1)"],
    "worker: {replica_id: '${POD'}": ["worker.replica_id: has a ${ that begins no variable; write ${NAME}, ${NAME:-default}, or $${ for a literal ${ (line 1)"],
    "worker:\n  replica_id: ${POD_NAME}": ["worker.replica_id: the environment variable POD_NAME is not set; set it or use ${POD_NAME:-default} (line 2)"],
}  # fmt: skip


@pytest.mark.parametrize("text", ERRORS, ids=lambda text: text.replace("\n", " "))
def test_every_problem_has_its_key_and_line(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, text)
    expected = ERRORS[text]
    if expected is not None:
        assert found == [line.replace("{path}", str(tmp_path / "tokentrace.yml")) for line in expected]
    (line,) = found
    assert re.match(r"[\w.\[\]/-]+: \S", line)
    assert "\n" not in line
    assert "Value error" not in line


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = "kafka:\n  topik: a\nworker:\n  commit_interval: 1\n  replica_id: ${NONE}\nhttp_server: {addr: x}\n"
    assert [problem.split(":")[0] for problem in problems(tmp_path, text)] == [
        "kafka.topik",
        "worker.commit_interval",
        "worker.replica_id",
        "http_server.addr",
    ]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yml: does not exist; `tokentrace init` writes a tokentrace.yml"):
        load_config(tmp_path / "none.yml", {})
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"a: \xff\xfe")
    with pytest.raises(
        ConfigError, match=r"binary.yml: is not UTF-8 text, its byte 3 is 0xff; save it as UTF-8 \(line 1\)"
    ):
        load_config(binary, {})


# Variables.


def test_variables_never_become_structure(tmp_path: Path) -> None:
    text = (
        'kafka: {group_id: "a-${G}-${D:-d}"}\n'
        "worker:\n  replica_id: '${T}'\n  batch_size: ${N}\n  log_level: ${L:-debug}\n"
    )
    config = load(tmp_path, text, T="x, y: [1]", G="g", N="5")
    assert (config.worker.replica_id, config.kafka.group_id) == ("x, y: [1]", "a-g-d")
    assert (config.worker.batch_size, config.worker.log_level) == (5, "debug")


def test_the_token_s_variable_has_a_second_name(tmp_path: Path) -> None:
    text = "http_server: {auth_token: '${TOKENTRACE_AUTH_TOKEN}'}"

    def token(**environment: str) -> str:
        found = load(tmp_path, text, **environment).http_server.auth_token
        assert found is not None
        return found.get_secret_value()

    assert token(TOKENTRACE_API_TOKEN="a") == "a"
    assert token(TOKENTRACE_API_TOKEN="a", TOKENTRACE_AUTH_TOKEN="b") == "b"
    (problem,) = problems(tmp_path, text)
    assert "TOKENTRACE_AUTH_TOKEN is not set" in problem


def test_an_unset_token_never_disables_authentication(tmp_path: Path) -> None:
    text = "http_server: {auth_token: '${TOKEN}'}"
    assert problems(tmp_path, text) == [
        "http_server.auth_token: the environment variable TOKEN is not set; set it or use ${TOKEN:-default} (line 1)"
    ]
    (empty,) = problems(tmp_path, text, TOKEN="")
    assert empty.startswith("http_server.auth_token: ")


@pytest.mark.parametrize("name", ["auth_token", "admin_token"])
@pytest.mark.parametrize("value", ["", " &PLANT", " #PLANT", " null", " !!str"])
def test_a_token_that_yaml_reads_as_nothing_never_disables_authentication(
    tmp_path: Path, name: str, value: str
) -> None:
    (problem,) = problems(tmp_path, f"http_server:\n  {name}:{value}\n")
    assert problem.startswith(f"http_server.{name}: is empty, which would disable authentication")


@pytest.mark.parametrize("value", ["*PLANT", "!PLANT", "!PLANT!x", "!!python/PLANT x", "!x PLANT"])
def test_a_secret_that_is_not_quoted_is_not_in_the_problem(tmp_path: Path, value: str) -> None:
    (problem,) = problems(tmp_path, f"http_server:\n  auth_token: {value}\n")
    assert "PLANT" not in problem
    assert "(line 2)" in problem
    assert "\n" not in problem


def test_variables_may_default_to_empty_and_be_escaped(tmp_path: Path) -> None:
    config = load(tmp_path, "kafka: {dead_letter_topic: '${X:-}'}\nworker: {replica_id: 'a$${b}c$d'}")
    assert (config.kafka.dead_letter_topic, config.worker.replica_id) == ("", "a${b}c$d")


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "worker: &w {batch_size: 5}\nmetrics:\n  buckets: {latency_ms: &b [1, 2], ttft_ms: *b}\n"
    config = load(tmp_path, text)
    assert config.metrics.buckets.ttft_ms == (1.0, 2.0)
    assert config.worker.batch_size == 5


# Values.


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    text = (
        "http_server: {auth_token: s3cret}\nschema_registry: {url: http://x, auth: {username: u, password: s3cret}}\n"
        "alerts: [{name: a, kind: quality_drop, delivery: {type: http, url: http://x, headers: {a: s3cret}}}]\n"
    )
    config = load(tmp_path, text)
    assert "s3cret" not in repr(config)
    assert "s3cret" not in yaml.safe_dump(config.model_dump(mode="json"))
    assert config.http_server.auth_token is not None
    assert config.http_server.auth_token.get_secret_value() == "s3cret"


def test_values_are_parsed(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "kafka: {bootstrap_servers: [a:1, b:2]}\n"
        "worker: {commit_interval: 250ms, drain_timeout: 0s}\n"
        "http_server: {addr: '[::1]:80', tls: {certificate: c.pem, key: /k.pem}}\n"
        "schemas: {paths: [s], raw: r.avsc}\n"
        "metrics: {labels: {tokentrace_cost_total: [caller, model]}}\n"
        "pricing: {models: {'GPT-*': {prompt_per_1m: 0.1, completion_per_1m: 10}}}\n"
        "limits: {max_cost_usd: 500, max_tokens: 10000000, max_latency: 2h}\n",
    )
    assert config.kafka.bootstrap_servers == "a:1,b:2"
    assert (config.worker.commit_interval, config.worker.drain_timeout) == (0.25, 0.0)
    assert tuple(config.http_server.addr) == ("::1", 80)
    assert config.http_server.tls is not None
    assert (config.http_server.tls.certificate, config.http_server.tls.key) == (tmp_path / "c.pem", Path("/k.pem"))
    assert (config.schemas.paths, config.schemas.raw) == ((tmp_path / "s",), tmp_path / "r.avsc")
    assert config.metrics.labels == {"cost_total": ("model", "caller")}
    assert config.pricing.models["GPT-*"].prompt_per_1m == Decimal("0.1")
    assert span_limits(config) == Limits(cost_usd=500.0, tokens=10_000_000, latency_ms=7_200_000.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250ms"), (90.0, "90s"), (300.0, "5m"), (86400.0, "1d"), (0.0, "0ms")]
)
def test_durations_are_formatted_as_in_the_file(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_properties_without_a_value_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So one file does for a Kafka with an authority of its own and for one without."""
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "")
    path = tmp_path / "c.yml"
    path.write_text(
        "kafka:\n  properties:\n    ssl.ca.location: ${KAFKA_CA:-}\n"
        "    sasl.mechanism: ${KAFKA_SASL_MECHANISM:-PLAIN}\n    client.rack: a\n    linger.ms: 0\n"
    )
    assert load_config(path).kafka.properties == {"client.rack": "a", "linger.ms": 0}


@pytest.mark.parametrize("name", MANAGED_PROPERTIES)
def test_managed_properties_are_rejected(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, f"kafka: {{properties: {{{name}: x}}}}")
    assert problem.startswith(f"kafka.properties.{name}: is managed by tokentrace; ")


# The models themselves.


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key with its field."""
    for name, field in model.model_fields.items():
        sections = list(_sections(field.annotation))
        for inner, suffix in sections:
            yield from keys(inner, f"{prefix}{name}{suffix}.")
        if not sections:
            yield f"{prefix}{name}", field


def test_every_key_is_described() -> None:
    rows = markdown_table().splitlines()[2:]
    assert len(rows) >= len(list(keys(Config)))
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize("key", [key for key, _ in keys(Config)])
def test_every_key_is_read_by_the_program(key: str) -> None:
    leaf = key.rsplit(".", 1)[-1]
    if key.startswith("metrics.buckets."):
        return  # Read by their names, all of them, in service.py.
    package = ROOT / "worker" / "tokentrace"
    sources = [path for path in package.rglob("*.py") if path.parent.name != "config"]
    assert any(re.search(rf"\.{leaf}\b", path.read_text()) for path in sources), f"{key} is read nowhere"


def test_the_schema_for_editors_knows_every_key_and_accepts_the_shipped_file() -> None:
    schema = json.loads(json_schema())
    assert schema == json.loads((ROOT / "schemas" / "tokentrace.schema.json").read_text())
    text = json.dumps(schema)
    for key, field in keys(Config):
        assert f'"{field.alias or key.rsplit(".", 1)[-1]}"' in text
    described = [key for section in schema["$defs"].values() for key in section["properties"].values()]
    assert [key for key in described if not key.get("description")] == []


@pytest.mark.parametrize(
    ("replica_id", "settings", "leaves"),
    [
        ("tokentrace-1", "min_replicas: 2", False),
        ("tokentrace-2", "min_replicas: 2", True),
        ("tokentrace-10", "min_replicas: 2", True),
        ("tokentrace-0", "min_replicas: 0", True),
        ("tokentrace-1", "min_replicas: 2, leave_on_stop: true", True),
        ("worker", "leave_on_stop: false", False),
    ],
)
def test_a_replica_beyond_the_smallest_number_leaves_on_stop(
    tmp_path: Path, replica_id: str, settings: str, leaves: bool
) -> None:
    config = load(tmp_path, f"worker: {{replica_id: {replica_id}, {settings}}}")
    assert leaves_on_stop(config) == leaves


def test_min_replicas_requires_an_ordinal(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"min_replicas: requires a worker.replica_id that ends in -N, and it is 'worker'"
    ):
        load(tmp_path, "worker: {replica_id: worker, min_replicas: 2}")
