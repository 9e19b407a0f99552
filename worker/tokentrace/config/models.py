"""The configuration's models: every key of `tokentrace.yml`, its type, default and meaning.

Strict and frozen; an unknown key is an error. The JSON Schema and `docs/configuration.md` are generated from here.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    create_model,
    field_validator,
    model_validator,
)

from tokentrace.config.alerts import AlertRule
from tokentrace.config.fields import Bounds, Duration, HostPort, ListenAddress, PositiveDuration, UsdPerMillion
from tokentrace.model.families import FAMILIES_BY_NAME, GROUP_LABELS
from tokentrace.model.measures import DISTRIBUTIONS

#: librdkafka properties that tokentrace's correctness rests on, and what to use instead.
MANAGED_PROPERTIES: Final = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "metadata.broker.list": "kafka.bootstrap_servers",
    "group.id": "kafka.group_id",
    "group.instance.id": "worker.replica_id",
    "transactional.id": "worker.replica_id",
    "client.id": "worker.replica_id",
    "group.protocol": "kafka.group_protocol",
    "session.timeout.ms": "worker.session_timeout",
    "auto.offset.reset": "kafka.start",
    "partition.assignment.strategy": "nothing; it is always cooperative-sticky",
    "enable.auto.commit": "nothing; tokentrace commits by itself",
    "enable.auto.offset.store": "nothing; tokentrace commits by itself",
    "isolation.level": "nothing; it is always read_committed",
    "enable.idempotence": "nothing; it is always on",
    "enable.partition.eof": "nothing; it is always on",
}

LabelName = Literal["status", "model", "provider", "caller"]
NonEmpty = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of every section."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Kafka(Section):
    """The brokers, the topic and the consumer group."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Brokers to begin with, `host:port,host:port` or a list."""
    topic: NonEmpty = "llm-spans"
    """Topic that applications publish spans to."""
    group_id: NonEmpty = "tokentrace"
    """Consumer group of the workers; also the prefix of tokentrace's own topics."""
    framing: Literal["auto", "confluent", "single_object", "raw"] = "auto"
    """How messages name their schema; auto tells by the first bytes."""
    dead_letter_topic: str = ""
    """Where messages go that cannot be counted; empty means `<topic>.dead-letters`."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a group that has never committed begins."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """Group protocol; `consumer` is KIP-848, for brokers from 4.0."""
    properties: dict[str, str | bool | int | float] = {}
    """Passed through to librdkafka: TLS, SASL, client.rack and so on."""

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _join(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ",".join(value)
        if isinstance(value, str) and not value.strip(", "):
            raise ValueError("must name at least one broker, host:port")
        return value

    @field_validator("properties", mode="after")
    @classmethod
    def _reject_managed(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in MANAGED_PROPERTIES:
                raise ValueError(f"{name} is not yours to set here; use {MANAGED_PROPERTIES[name]}")
        return value

    @model_validator(mode="after")
    def _separate_topics(self) -> Kafka:
        if self.dead_letters == self.topic:
            raise ValueError("dead_letter_topic must differ from topic")
        return self

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic's name."""
        return self.dead_letter_topic or f"{self.topic}.dead-letters"

    @property
    def state_topic(self) -> str:
        """Totals of every replica."""
        return f"{self.group_id}.state"

    @property
    def ids_topic(self) -> str:
        """What worker.deduplicate remembers."""
        return f"{self.group_id}.ids"

    @property
    def alerts_topic(self) -> str:
        """Firings, and the memory of who evaluates the rules."""
        return f"{self.group_id}.alerts"

    @property
    def rollups_topic(self) -> str:
        """Increments of every commit."""
        return f"{self.group_id}.rollups"


class RegistryAuth(Section):
    """How to sign in to the Schema Registry: username and password, or a bearer token."""

    username: str | None = None
    """User name of basic authentication."""
    password: SecretStr | None = None
    """Password of basic authentication."""
    bearer_token: SecretStr | None = None
    """Token of bearer authentication."""

    @model_validator(mode="after")
    def _one_kind(self) -> RegistryAuth:
        basic = self.username is not None or self.password is not None
        if basic and (self.username is None or self.password is None):
            raise ValueError("username and password go together")
        if basic == (self.bearer_token is not None):
            raise ValueError("give either username and password, or bearer_token")
        return self


class RegistryTls(Section):
    """TLS towards the Schema Registry."""

    ca: Path | None = None
    """Certificate authority to trust, a PEM file."""
    certificate: Path | None = None
    """Client certificate, a PEM file."""
    key: Path | None = None
    """Key of the client certificate."""


class SchemaRegistry(Section):
    """The Confluent-compatible Schema Registry, for messages in the Confluent wire format."""

    url: str = ""
    """Base URL; empty means that there is none."""
    auth: RegistryAuth | None = None
    """Credentials."""
    tls: RegistryTls = RegistryTls()
    """TLS files."""
    timeout: PositiveDuration = 5.0
    """How long one request may take."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value


class Schemas(Section):
    """Writer schemas in files, for messages in Avro single-object encoding."""

    paths: tuple[Path, ...] = ()
    """Folders of .avsc files, beside the span schema that ships with tokentrace; relative to this file."""
    raw: Path | None = None
    """The schema of bare datums, with kafka.framing: raw."""


class Deduplicate(Section):
    """Count a span that a producer sent twice only once."""

    by: Literal["span_id"] = "span_id"
    """What makes two spans of a partition the same: the span id, within its trace."""
    window: PositiveDuration = 600.0
    """How long a counted span is remembered at least, by the messages' timestamps."""
    max_ids: Annotated[StrictInt, Field(ge=1)] = 1_000_000
    """Most spans that are remembered of one partition, 40 to 80 bytes each; beyond it the oldest are forgotten."""


class WorkerSection(Section):
    """How a worker counts and commits."""

    replica_id: NonEmpty = Field(default_factory=socket.gethostname)
    """Identity of this replica, unique in the group and stable over restarts; the host name by default."""
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """What a crash may do to the counters."""
    commit_interval: PositiveDuration = 1.0
    """How often what was counted is committed and shown."""
    batch_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    """Most messages that are counted at once."""
    batch_wait: PositiveDuration = 0.1
    """Longest wait for a batch to fill up."""
    drain_timeout: Duration = 30.0
    """On SIGTERM, how long the final values wait to be scraped."""
    session_timeout: PositiveDuration = 45.0
    """How long the group waits for a silent replica before others take its partitions."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """One JSON object a line, or text; auto is text on a terminal."""
    deduplicate: Deduplicate | None = None
    """Off unless set."""


class Tls(Section):
    """A certificate and its key, PEM files."""

    certificate: Path
    """Certificate chain."""
    key: Path
    """Its private key."""


class HttpServer(Section):
    """The endpoint that Prometheus scrapes."""

    enabled: StrictBool = True
    """Whether to listen at all."""
    addr: ListenAddress = HostPort("0.0.0.0", 9090)
    """Where to listen, `host:port` or `:port`."""
    prometheus_path: str = "/metrics/prometheus"
    """Path of the metrics."""
    health_path: str = "/health"
    """Path of liveness; `/ready` below it is readiness. Never asks for the token."""
    auth_token: SecretStr | None = None
    """Bearer token that every path but the health path asks for."""
    tls: Tls | None = None
    """Serve HTTPS."""
    keep_alive_timeout: PositiveDuration = 75.0
    """Idle connections are closed after this."""

    @field_validator("auth_token")
    @classmethod
    def _not_empty(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("is empty, which would switch authentication off; set a token or remove the key")
        return value

    @field_validator("prometheus_path", "health_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or value == "/" or value.endswith("/"):
            raise ValueError("must begin with / and name a path")
        return value

    @model_validator(mode="after")
    def _separate_paths(self) -> HttpServer:
        if self.prometheus_path in (self.health_path, f"{self.health_path}/live", f"{self.health_path}/ready"):
            raise ValueError("prometheus_path and health_path must differ")
        return self


if TYPE_CHECKING:

    class Buckets(Section):
        """A key for each of `measures.DISTRIBUTIONS`."""
else:
    Buckets = create_model(
        "Buckets",
        __base__=Section,
        __doc__="Upper bounds of the histograms' buckets. Changing them starts the histogram's history anew.",
        **{
            each.name: (Bounds, Field(each.bounds, description=f"Of tokentrace_{each.name}.")) for each in DISTRIBUTIONS
        },
    )


class Metrics(Section):
    """What is exposed."""

    buckets: Buckets = Buckets()
    """Bucket bounds by histogram."""
    labels: dict[str, tuple[LabelName, ...]] = {}
    """Labels by family, where they are not the default: any of status, model, provider, caller."""
    max_groups: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    """Most (model, provider, caller) groups with series of their own; others fold into __overflow__."""
    quality_window: PositiveDuration = 300.0
    """How far back tokentrace_quality_score looks."""
    zero_first: StrictBool = True
    """Show a new series as 0 for one scrape, so that Prometheus sees its first increment."""
    expire_after: PositiveDuration | None = None
    """Groups that were idle for this long, 10m at least, end their series and make room; never, unless set."""

    @field_validator("expire_after")
    @classmethod
    def _long_enough(cls, value: float | None) -> float | None:
        # Every Prometheus must have scraped the last value before the series ends.
        if value is not None and value < 600.0:
            raise ValueError("must be at least 10m")
        return value

    @field_validator("labels")
    @classmethod
    def _known_families(cls, value: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        labels: dict[str, tuple[str, ...]] = {}
        for name, chosen in value.items():
            family = name.removeprefix("tokentrace_")
            if family not in FAMILIES_BY_NAME:
                raise ValueError(
                    f"{name} is no family whose labels can be chosen; those are {', '.join(FAMILIES_BY_NAME)}"
                )
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"{name} names a label twice")
            labels[family] = tuple(label for label in GROUP_LABELS if label in chosen)
        return labels


class ModelRates(Section):
    """Prices of the models that a glob matches, USD a million tokens."""

    prompt_per_1m: UsdPerMillion
    """Prompt tokens."""
    completion_per_1m: UsdPerMillion
    """Completion tokens."""
    cached_prompt_per_1m: UsdPerMillion | None = None
    """Cached prompt tokens; as prompt tokens unless set."""


class Pricing(Section):
    """Prices for spans that carry no cost."""

    models: dict[str, ModelRates] = {}
    """Model glob -> rates, tried in order, without regard to case, before the built-in table."""
    builtin: StrictBool = True
    """Whether to use the price table of genai-prices for models that no glob matches."""


class Config(Section):
    """The configuration file, `tokentrace.yml`."""

    kafka: Kafka = Kafka()
    schema_registry: SchemaRegistry = SchemaRegistry()
    schemas: Schemas = Schemas()
    worker: WorkerSection = Field(default_factory=WorkerSection)
    http_server: HttpServer = HttpServer()
    metrics: Metrics = Metrics()
    pricing: Pricing = Pricing()
    alerts: tuple[AlertRule, ...] = ()

    @model_validator(mode="after")
    def _cross_check(self) -> Config:
        if self.kafka.framing == "raw" and self.schemas.raw is None:
            raise ValueError("kafka.framing is raw, so schemas.raw must name the schema file")
        names = [rule.name for rule in self.alerts]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"alerts has two rules named {twice!r}")
        if self.alerts and self.worker.guarantee != "exactly_once":
            raise ValueError("alerts need worker.guarantee: exactly_once, which writes the rollups that they read")
        return self
