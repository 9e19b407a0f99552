"""Topic set-up: create or check tokentrace's own topics before the group is joined."""

from __future__ import annotations

from tokentrace.config import Config
from tokentrace.errors import ConfigError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.topics import READ, Topics, alerts_topic, rollups_topic, state_topic
from tokentrace.model.durations import format_duration


def set_up_topics(config: Config, clients: KafkaClients) -> None:
    """Create the topics that are missing; check the settings, the ACLs and that the rollups outlast every window.

    Raises UsageError for wrong settings or missing rights, ConfigError for a window that is too long.
    """
    kafka = config.kafka
    topics = Topics(clients)
    specs = [topics.dead_letters(kafka.dead_letters, kafka.topic)]
    if config.worker.guarantee == "exactly_once":
        specs += [state_topic(kafka.state_topic), rollups_topic(kafka.rollups_topic, bool(config.alerts))]
        if config.worker.deduplicate is not None:
            specs.append(topics.ids(kafka.ids_topic, kafka.topic))
    if config.alerts:
        specs.append(alerts_topic(kafka.alerts_topic))
    topics.ensure(specs)
    topics.check_rights({kafka.topic: READ, **{spec.name: spec.operations for spec in specs}})
    if config.alerts:
        check_windows(config, topics.retention_s(kafka.rollups_topic))


def check_windows(config: Config, retention_s: float | None) -> None:
    """Reject alert windows that the rollups topic does not retain: the next evaluator has to read them again.

    retention_s: None if unlimited or unknown. Raises ConfigError.
    """
    problems = [
        f"alerts[{index}].window: {format_duration(rule.window)} is longer than the topic "
        f"{config.kafka.rollups_topic!r} is kept ({format_duration(retention_s)}); shorten it, or raise the "
        "topic's retention.ms"
        for index, rule in enumerate(config.alerts)
        if retention_s is not None and rule.window >= retention_s
    ]
    if problems:
        raise ConfigError(problems)
