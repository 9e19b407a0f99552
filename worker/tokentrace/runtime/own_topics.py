"""Own topics under a running worker: one that is deleted is named, and created again unless it held the totals.

Without it, every commit would fail for ever, or the brokers would create the topic with settings that lose data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tokentrace.config import Config
from tokentrace.errors import ConfigError, FatalError, UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.topic_watch import TopicWatch
from tokentrace.runtime.topic_setup import set_up_topics

log = logging.getLogger(__name__)

#: Longest wait for the answer about the topics while commits fail.
LOOK_S: Final = 1.0
#: Longest time and pause for which `check_surely` looks again.
SURE_S: Final = 10.0
SURE_PAUSE_S: Final = 0.2


def effects_of(config: Config) -> dict[str, str]:
    """Return the topics of this worker that can be created again -> what goes with their records."""
    kafka = config.kafka
    effects = {kafka.dead_letters: "The dead letters that it held are lost."}
    if config.worker.guarantee == "exactly_once":
        effects[kafka.rollups_topic] = "Alert windows have no increments from before."
        if config.worker.deduplicate is not None:
            effects[kafka.ids_topic] = (
                "Repeats of spans from before are counted again once their partition moves or its worker restarts."
            )
    if config.evaluates:
        effects[kafka.alerts_topic] = "Which alerts were firing is forgotten, so they may be delivered again."
    if config.budgets:
        effects[kafka.budgets_topic] = (
            "The next evaluator begins the budgets again, with the rollups that are still there."
        )
    return effects


class OwnTopics:
    """The topics that one worker has made."""

    def __init__(
        self,
        config: Config,
        clients: KafkaClients,
        set_up: Callable[[Config, KafkaClients], None] = set_up_topics,
        watch: TopicWatch | None = None,
    ) -> None:
        self._config = config
        self._clients = clients
        self._set_up = set_up
        self._effects = effects_of(config)
        self._state = config.kafka.state_topic if config.worker.guarantee == "exactly_once" else None
        self._watch = watch
        #: Reason for which the worker is not ready, empty while every topic exists.
        self.problem = ""

    def check_surely(self) -> None:
        """Check, and again while it is not sure that a missing topic was deleted. Raises FatalError as `check`.

        It comes before what would wait for the topic.
        """
        stop = self._clients.stop
        deadline_s = stop.clock() + SURE_S
        self.check(commits_fail=True)
        while self._watch is not None and self._watch.in_doubt and stop.clock() < deadline_s:
            if stop.wait(SURE_PAUSE_S):
                return
            self.check(commits_fail=True)

    def check(self, commits_fail: bool = False) -> None:
        """Create again what was deleted. commits_fail: whether an answer is worth a short wait.

        Raises FatalError where the state topic was deleted or recreated: the totals would be written in part.
        """
        if self._watch is None:
            state = [] if self._state is None else [self._state]
            self._watch = TopicWatch(self._clients, [*self._effects, *state])
        changes = self._watch.look(LOOK_S if commits_fail else 0.0)
        if changes is None:
            return
        if self._state in changes.deleted | changes.recreated:
            raise FatalError(
                f"Topic {self._state!r} was {'deleted' if self._state in changes.deleted else 'recreated'} under this "
                "worker, with the durable totals of every replica. Nothing is committed any more. Restore the topic "
                "from a copy; then, or without one, start the worker again: it names the commands that go on."
            )
        deleted = sorted(changes.deleted)
        self.problem = f"the topics {deleted} were deleted" if deleted else ""
        if not deleted:
            return
        try:
            self._set_up(self._config, self._clients)
        except (ConfigError, FatalError, UsageError) as failure:
            log.error("The topics %s were deleted under this worker, and cannot be created: %s", deleted, failure)
            return
        for topic in deleted:
            log.error("Topic %s was deleted under this worker, and is created again. %s", topic, self._effects[topic])
