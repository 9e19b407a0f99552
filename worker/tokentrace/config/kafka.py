"""Section `kafka`: brokers, topics and the consumer group."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, field_serializer, field_validator, model_validator

from tokentrace.config.section import NonEmpty, Section, located
from tokentrace.model.secrets import public_property, public_url

#: librdkafka properties that correctness depends on -> the setting to use, or the fixed behaviour.
MANAGED_PROPERTIES: Final = {
    "bootstrap.servers": "set kafka.bootstrap_servers instead",
    "metadata.broker.list": "set kafka.bootstrap_servers instead",
    "group.id": "set kafka.group_id instead",
    "group.instance.id": "it is the group and worker.replica_id",
    "transactional.id": "it is the group and worker.replica_id",
    "client.id": "set worker.replica_id instead",
    "group.protocol": "set kafka.group_protocol instead",
    "max.poll.records": "set worker.batch_size instead",
    "session.timeout.ms": "set worker.session_timeout instead",
    "auto.offset.reset": "set kafka.start instead",
    "partition.assignment.strategy": "it is always cooperative-sticky",
    "enable.auto.commit": "it is always off",
    "enable.auto.offset.store": "it is always off",
    "isolation.level": "it is always read_committed",
    "enable.idempotence": "it is always on",
    "enable.partition.eof": "it is always on",
}

#: Characters of a topic's name, of which Kafka takes 249.
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]+")
MAX_TOPIC_LENGTH: Final = 249

#: Address of a broker. librdkafka takes the protocol before it, as it is in Kafka's own advertised.listeners.
_BROKER: Final = re.compile(
    r"(?:(?:plaintext|ssl|sasl_plaintext|sasl_ssl)://)?(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.IGNORECASE
)


def invalid_topic(name: str) -> str:
    """Return what Kafka does not allow in a topic's name, empty if nothing."""
    if name in (".", ".."):
        return f"{name} is not a name of a topic"
    if len(name) > MAX_TOPIC_LENGTH:
        return f"names of topics have at most {MAX_TOPIC_LENGTH} characters, not {len(name)}"
    if not _TOPIC.fullmatch(name):
        character = next(character for character in name if not _TOPIC.fullmatch(character))
        return f"the name of a topic has letters, digits, dots, underscores and hyphens alone, not {character!r}"
    return ""


def _topic(value: str) -> str:
    if value and (what := invalid_topic(value)):
        raise ValueError(what)
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError("must be text, a number, or true or false; the key is the property's whole name, with dots")
    if not isinstance(value, (str, bool, int, float)):
        raise ValueError("must be text, a number, or true or false")
    return value


TopicName = Annotated[str, AfterValidator(_topic)]
PropertyValue = Annotated[str | bool | int | float, BeforeValidator(_scalar)]


class Kafka(Section):
    """Brokers, topics and consumer group."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Initial brokers, `host:port,host:port` or a list."""
    topic: Annotated[NonEmpty, AfterValidator(_topic)] = "llm-spans"
    """Topic to which applications publish spans."""
    group_id: NonEmpty = "tokentrace"
    """Consumer group of the workers; also the prefix of tokentrace's topics."""
    framing: Literal[
        "auto", "confluent", "apicurio", "single_object", "glue", "raw", "json", "otlp_proto", "otlp_json"
    ] = "auto"
    """Format of messages; auto tells Avro with a header, and OpenTelemetry's OTLP, by headers and the first bytes."""
    dead_letter_topic: TopicName = ""
    """Topic for messages that cannot be counted; empty means `<topic>.dead-letters`."""
    start: Literal["earliest", "latest"] = "earliest"
    """Start position of a group that has never read the topic. Partitions added later are read from their beginning."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """Group protocol; `consumer` is KIP-848, which needs brokers from 4.0."""
    properties: dict[str, PropertyValue] = {}
    """librdkafka properties: TLS, SASL, client.rack and so on. One without a value is left out."""

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _join(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(server, str) for server in value):
            value = ",".join(value)
        if not isinstance(value, str):
            raise ValueError("must be host:port,host:port, or a list of such")
        brokers = [broker.strip() for broker in value.split(",") if broker.strip()]
        if not brokers:
            raise ValueError("must contain at least one broker, host:port")
        for broker in brokers:
            found = _BROKER.fullmatch(broker)
            if found is None or not 0 < int(found[1] or 9092) < 65536:
                split = " Commas are between brokers." if re.search(r"[;\s|]", broker) else ""
                what = f"{public_url(broker)!r} is not a broker; write host:port, such as kafka-1:9092"
                raise ValueError(f"{what}.{split}".removesuffix(".") if split else what)
        return value

    @field_validator("properties", mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: setting for name, setting in value.items() if setting is not None}

    @field_validator("properties", mode="after")
    @classmethod
    def _reject_managed(cls, value: dict[str, Any]) -> dict[str, Any]:
        managed = [name for name in value if name in MANAGED_PROPERTIES]
        if managed:
            raise located(*(((name,), f"is managed by tokentrace; {MANAGED_PROPERTIES[name]}") for name in managed))
        return value

    @field_serializer("properties", when_used="json")
    def _public(self, properties: dict[str, str | bool | int | float]) -> dict[str, str | bool | int | float]:
        return {name: public_property(name, value) for name, value in properties.items()}

    @model_validator(mode="after")
    def _separate_topics(self) -> Kafka:
        if self.dead_letters == self.topic:
            raise located((("dead_letter_topic",), "must differ from topic"))
        used = str(self.properties.get("security.protocol", "plaintext")).lower()
        for broker in self.bootstrap_servers.split(","):
            protocol = broker.partition("://")[0].strip() if "://" in broker else ""
            if protocol and protocol.lower() != used:
                what = f"{protocol}:// is not what the connection uses, security.protocol {used}; make them the same"
                raise located((("bootstrap_servers",), what))
        return self

    @property
    def dead_letters(self) -> str:
        """Name of the dead-letter topic."""
        return self.dead_letter_topic or f"{self.topic}.dead-letters"

    @property
    def state_topic(self) -> str:
        """Name of the topic with the totals of every replica."""
        return f"{self.group_id}.state"

    @property
    def ids_topic(self) -> str:
        """Name of the topic with the span ids for worker.deduplicate."""
        return f"{self.group_id}.ids"

    @property
    def alerts_topic(self) -> str:
        """Name of the topic with alert firings and the evaluator's state."""
        return f"{self.group_id}.alerts"

    @property
    def budgets_topic(self) -> str:
        """Name of the topic with the verdicts on the budgets."""
        return f"{self.group_id}.budgets"

    @property
    def rollups_topic(self) -> str:
        """Name of the topic with the increments of every commit."""
        return f"{self.group_id}.rollups"
