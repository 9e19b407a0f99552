"""Topic set-up: create or check tokentrace's own topics before the group is joined."""

from __future__ import annotations

from typing import Final

from tokentrace.config import Config
from tokentrace.errors import ConfigError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.topics import (
    READ,
    ROLLUPS_RETENTION_S,
    Topics,
    TopicSpec,
    alerts_topic,
    budgets_topic,
    rollups_topic,
    state_topic,
)
from tokentrace.model.durations import format_duration

#: Retention of a created rollups topic beyond the longest window, for the time in which no evaluator runs.
_ROOM_S: Final = 86_400.0


def set_up_topics(config: Config, clients: KafkaClients) -> None:
    """Create the topics that are missing; check the settings, the ACLs and that the rollups outlast every window.

    Raises UsageError for wrong settings or missing rights, ConfigError for a window that is too long.
    """
    kafka = config.kafka
    topics = Topics(clients)
    specs = topic_specs(config, topics)
    topics.ensure(specs)
    topics.check_rights({kafka.topic: READ, **{spec.name: spec.operations for spec in specs}})
    if config.alerts:
        check_windows(config, topics.retention_s(kafka.rollups_topic))


def topic_specs(config: Config, topics: Topics) -> list[TopicSpec]:
    """Return tokentrace's own topics. The topic that is consumed must exist. Raises as `Topics`."""
    kafka = config.kafka
    specs = [topics.dead_letters(kafka.dead_letters, kafka.topic)]
    if config.worker.guarantee == "exactly_once":
        rollups = rollups_topic(kafka.rollups_topic, config.evaluates, rollups_retention_s(config))
        specs += [state_topic(kafka.state_topic), rollups]
        if config.worker.deduplicate is not None:
            specs.append(topics.ids(kafka.ids_topic, kafka.topic))
    if config.evaluates:
        specs.append(alerts_topic(kafka.alerts_topic))
    if config.budgets:
        specs.append(budgets_topic(kafka.budgets_topic))
    return specs


def rollups_retention_s(config: Config) -> float:
    """Return how long a rollups topic that is created keeps its records: longer than `check_windows` requires."""
    longest_s = max((rule.window for rule in config.alerts), default=0.0)
    return max(ROLLUPS_RETENTION_S, longest_s + _ROOM_S)


def check_windows(config: Config, retention_s: float | None) -> None:
    """Reject alert windows that the rollups topic does not retain, as the next evaluator has to read them again.

    retention_s: None if unlimited or unknown. Raises ConfigError.
    """
    from tokentrace.alerts.ownership import MARGIN_MINUTES

    topic = config.kafka.rollups_topic
    margin_s = 60.0 * MARGIN_MINUTES
    retention_ms = round(rollups_retention_s(config) * 1000)
    problems = [
        f"alerts[{index}].window: {format_duration(rule.window)} and a margin of {format_duration(margin_s)} exceed "
        f"the retention of topic {topic!r} ({format_duration(retention_s)}); shorten the window, or run: "
        f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config retention.ms={retention_ms}"
        for index, rule in enumerate(config.alerts)
        if retention_s is not None and rule.window + margin_s > retention_s
    ]
    if problems:
        raise ConfigError(problems)
