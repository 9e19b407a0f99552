"""Alert status: the state of all rules, and silences, from any replica.

The evaluating replica answers from its snapshot, any other reads the alerts topic. A silence is a record of that topic,
so it is durable and holds for every evaluator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tokentrace.alerts.evaluation import RuleState
from tokentrace.alerts.evaluator import Evaluator, EvaluatorSettings
from tokentrace.alerts.payload import moment
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.store import AlertStore, rule_state, topic_record
from tokentrace.errors import FatalError
from tokentrace.kafka import producer as kafka
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.producer import IdempotentProducer
from tokentrace.model.durations import format_duration
from tokentrace.state.checksums import record_headers

TIMEOUT_S: Final = 15.0


class AlertStatus:
    """The rules of one consumer group. The methods may block, and may be called from any thread."""

    def __init__(
        self,
        *,
        settings: EvaluatorSettings,
        clients: KafkaClients,
        rules: Sequence[Rule],
        budgets: Sequence[str] = (),
        evaluator: Evaluator | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """budgets: names of those that can be silenced. evaluator: of this process, None if it has none."""
        self._settings = settings
        self._clients = clients
        self._rules = {rule.name: rule for rule in rules}
        self._budgets = frozenset(budgets)
        self._evaluator = evaluator
        self._clock = clock

    def describe(self) -> dict[str, Any]:
        """Return every rule's state as a JSON object. Raises FatalError if the alerts topic cannot be read."""
        snapshot = self._evaluator.snapshot if self._evaluator is not None else None
        if snapshot is not None:
            values = {name: state.value for name, state in snapshot.states.items() if state.value is not None}
            return self._describe(
                snapshot.replica,
                snapshot.time_s,
                snapshot.states,
                snapshot.delivery_failed,
                snapshot.silenced,
                values,
            )
        settings = self._settings
        store = AlertStore.read(self._clients, settings.alerts_topic, settings.group_id)
        memory = store.evaluator
        minute = memory["minute"] if memory is not None else None
        known = store.rules
        return self._describe(
            memory["replica"] if memory is not None else None,
            0.0 if minute is None else (minute + 1) * 60.0,
            {name: rule_state(rule, known[name]) for name, rule in self._rules.items() if name in known},
            {name: record["delivery_failed"] for name, record in known.items()},
            store.silenced,
            memory["values"] if memory is not None else {},
        )

    def silence(self, name: str, duration_s: float) -> dict[str, Any]:
        """Silence a rule or a budget. Raises KeyError for a name of neither, FatalError if Kafka refuses the record."""
        if name not in self._rules and name not in self._budgets:
            raise KeyError(name)
        now_s = self._clock()
        until_s = now_s + duration_s
        key, value = topic_record("silence", name, {"until": round(until_s * 1e6), "asked_at": round(now_s * 1e6)})
        failures: list[str] = []

        def on_delivery(problem: str | None) -> None:
            if problem is not None:
                failures.append(problem)

        producer = IdempotentProducer(self._clients, {"message.timeout.ms": int(TIMEOUT_S * 1000)})
        producer.produce(
            kafka.Record(self._settings.alerts_topic, key, value, 0, record_headers(key, value)), on_delivery
        )
        if producer.flush(TIMEOUT_S + 1.0) or failures:
            raise FatalError(f"Kafka did not accept the silence ({', '.join(failures) or 'no answer'}); try again.")
        return {"alert": name, "silenced_until": moment(until_s)}

    def _describe(
        self,
        replica: str | None,
        time_s: float,
        states: Mapping[str, RuleState],
        delivery_failed: Mapping[str, int],
        silenced: Mapping[str, float],
        values: Mapping[str, float],
    ) -> dict[str, Any]:
        return {
            "evaluator": replica,
            "evaluated_until": moment(time_s) if time_s else None,
            "alerts": [
                {
                    **_rule(rule),
                    **_state(rule, states.get(name, RuleState())),
                    "value": values.get(name),
                    "delivery_failed": delivery_failed.get(name, 0),
                    "silenced_until": (moment(silenced[name]) if silenced.get(name, 0.0) > self._clock() else None),
                }
                for name, rule in self._rules.items()
            ],
        }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "severity": rule.severity,
        "metric": rule.metric,
        "op": rule.op,
        "threshold": rule.threshold,
        "window": format_duration(rule.window * 60.0),
    }


def _state(rule: Rule, state: RuleState) -> dict[str, Any]:
    return {
        "state": "firing" if state.firing else "ok",
        "firings": state.firings,
        "last_fired_at": moment(state.fired_at_s) if state.fired_at_s else None,
        "instances": [
            {"group": dict(zip(rule.selection.group_by, labels, strict=True)), "fired_at": moment(instance.fired_at_s)}
            for labels, instance in state.instances.items()
            if instance.firing
        ],
    }
