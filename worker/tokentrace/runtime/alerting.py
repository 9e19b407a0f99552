"""Alerts and budgets of a replica: the evaluator, and what the configuration says to it.

A worker without alert rules and budgets does not import this module.
"""

from __future__ import annotations

from collections.abc import Callable

from tokentrace.alerts.evaluator import Evaluator, EvaluatorSettings
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.status import AlertStatus
from tokentrace.budgets.budget import Budget
from tokentrace.config import Config
from tokentrace.kafka.clients import KafkaClients
from tokentrace.model.measures import Layout


def alerting(
    config: Config, clients: KafkaClients, layout: Layout, clock: Callable[[], float]
) -> tuple[Evaluator, AlertStatus]:
    """The evaluator of alerts and budgets, and the answers to GET /alerts."""
    settings, rules, budgets = evaluator_settings(config), alert_rules(config), budgets_of(config)
    evaluator = Evaluator(settings=settings, clients=clients, rules=rules, budgets=budgets, layout=layout, clock=clock)
    status = AlertStatus(
        settings=settings,
        clients=clients,
        rules=rules,
        budgets=[budget.name for budget in budgets],
        evaluator=evaluator,
        clock=clock,
    )
    return evaluator, status


def alert_rules(config: Config) -> list[Rule]:
    return [Rule.of(rule) for rule in config.alerts]


def budgets_of(config: Config) -> list[Budget]:
    return [Budget.of(section) for section in config.budgets]


def evaluator_settings(config: Config) -> EvaluatorSettings:
    kafka, section = config.kafka, config.worker
    return EvaluatorSettings(
        group_id=kafka.group_id,
        replica=section.replica_id,
        rollups_topic=kafka.rollups_topic,
        alerts_topic=kafka.alerts_topic,
        budgets_topic=kafka.budgets_topic if config.budgets else "",
        session_timeout_s=section.session_timeout,
    )
