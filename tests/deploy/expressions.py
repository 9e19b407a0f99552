"""Every PromQL expression that a user is given: of the dashboard, the rules, docs/queries.md and the other pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.docs.blocks import blocks
from tests.services import ROOT

DASHBOARD = ROOT / "dashboards" / "grafana.json"
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
QUERIES = ROOT / "docs" / "queries.md"


@dataclass(frozen=True)
class Expression:
    """place: where it stands. text: as it stands there; variables of Grafana are still in it."""

    place: str
    text: str


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Panels of a dashboard, those of rows too, without the rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or []
        else:
            yield panel


def of_dashboard() -> list[Expression]:
    """Of every panel that asks Prometheus: `panel title, ref`."""
    return [
        Expression(f"{panel['title']}, {target['refId']}", target["expr"])
        for panel in panels(json.loads(DASHBOARD.read_text()))
        for target in panel["targets"]
        if panel["datasource"]["type"] == "prometheus"
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def of_rules() -> list[Expression]:
    return [Expression(rule.get("record") or rule["alert"], " ".join(rule["expr"].split())) for rule in rules()]


def of_queries(kind: str = "promql") -> list[Expression]:
    """Of the code blocks of this kind: `heading: first line`."""
    found, heading = [], ""
    for match in re.finditer(r"^## ([^\n]*)$|^```([\w-]+)\n(.*?)^```$", QUERIES.read_text(), re.MULTILINE | re.DOTALL):
        heading = match[1] or heading
        if match[2] == kind:
            found.append(Expression(f"{heading}: {match[3].splitlines()[0]}", " ".join(match[3].split())))
    return found


def of_pages() -> list[Expression]:
    """Of the other pages, where each line of a block is an expression: `page:line: first line`."""
    return [
        Expression(f"{block.place}: {line}", line)
        for block in blocks()
        if block.language == "promql" and block.page != str(QUERIES.relative_to(ROOT))
        for line in block.text.splitlines()
    ]


def filled(text: str, **variables: str) -> str:
    """An expression of the dashboard with Grafana's variables filled in: all models, all replicas, and a minute."""
    values = {
        "job": ".*", "namespace": ".*", "model": ".*", "provider": ".*", "caller": ".*", "replica": ".*",
        "__rate_interval": "5m", "__interval": "5m", "__range": "5m", **variables,
    }  # fmt: skip
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], text)
