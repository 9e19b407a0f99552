"""Mixin: the shipped rules and dashboards for a Prometheus that also holds other things than one group of fleets.

Two settings change every query. `fleet` names the labels by which fleets are told apart, `job` and `namespace` in the
files as shipped; one Prometheus for several clusters needs `cluster` before them. `selector` is matchers that every
series has to satisfy, such as `cluster="eu"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokentrace.errors import UsageError

#: The labels of a fleet in the shipped files.
SHIPPED_FLEET: Final = ("job", "namespace")
#: Labels that the series and the rules have for other purposes.
_TAKEN: Final = frozenset({"instance", "le", "partition", "model", "provider", "caller", "rule", "reason", "status"})

RULES: Final = (
    "deploy/grafana/provisioning/alerting/tokentrace.yml",
    "deploy/helm/tokentrace/files/rules.yml",
    "deploy/kubernetes/components/prometheus-rule/prometheusrule.yaml",
    "deploy/prometheus/rules.yml",
)
DASHBOARDS: Final = (
    "dashboards/grafana.json",
    "deploy/grafana/dashboards/tokentrace.json",
    "deploy/helm/tokentrace/files/tokentrace.json",
)
#: Tests of the rules as they are shipped: their series do not satisfy a selector.
RULES_TESTS: Final = "deploy/prometheus/rules_test.yml"

_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
#: The value is as it stands in YAML without quotes, so nothing of it may end a scalar there.
_MATCHER: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:(?!: )[^"\\\n#])*")\s*(?:,\s*|$)')
#: A family of the workers, and the beginning of its matchers. Recorded series have a colon before it.
_SERIES: Final = re.compile(r"(?<![\w:])(tokentrace_\w+)(\{)?")


@dataclass(frozen=True, slots=True)
class Mixin:
    """Settings of the queries. fleet: labels, the widest first. selector: matchers as PromQL has them, may be empty."""

    fleet: Sequence[str] = SHIPPED_FLEET
    selector: str = ""

    @classmethod
    def of(cls, fleet: str, selector: str) -> Mixin:
        """Return the settings of `a,b` and `c="d",e=~"f"`. Raises UsageError for what Prometheus would not read."""
        labels = [label.strip() for label in fleet.split(",")]
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise UsageError(f"{label!r} is not the name of a label; write --fleet-labels cluster,job,namespace.")
            if label in _TAKEN:
                raise UsageError(f"The label {label} does not tell fleets apart: the rules use it for something else.")
        if len(set(labels)) < len(labels):
            raise UsageError(f"A label is given twice: {', '.join(labels)}.")
        return cls(labels, ", ".join(_matchers(selector)))

    def apply(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the files with these settings in every query. Tests of the rules do not hold with a selector."""
        changed = dict(files)
        for path in RULES:
            if path in changed:
                changed[path] = self.rules(changed[path].decode()).encode()
        for path in DASHBOARDS:
            if path in changed:
                changed[path] = self.dashboard(changed[path].decode()).encode()
        if self.selector:
            changed.pop(RULES_TESTS, None)
        return changed

    def rules(self, text: str) -> str:
        """Return the text of rules, with its comments."""
        return self._selected(text.replace(", ".join(SHIPPED_FLEET), ", ".join(self.fleet)))

    def dashboard(self, text: str) -> str:
        """Return a dashboard: its queries, and a variable for each label of a fleet."""
        board = _replaced(json.loads(text), self._query)
        variables = board["templating"]["list"]
        shipped = {variable["name"]: variable for variable in variables if variable["name"] in SHIPPED_FLEET}
        place = min(index for index, variable in enumerate(variables) if variable["name"] in shipped)
        others = [variable for variable in variables if variable["name"] not in shipped]
        board["templating"]["list"] = [
            *others[:place],
            *(self._variable(shipped[SHIPPED_FLEET[0]], number) for number in range(len(self.fleet))),
            *others[place:],
        ]
        return json.dumps(board, indent=2, ensure_ascii=False) + "\n"

    def _query(self, text: str) -> str:
        text = text.replace(_matching(SHIPPED_FLEET), _matching(self.fleet))
        return self._selected(text.replace(", ".join(SHIPPED_FLEET), ", ".join(self.fleet)))

    def _selected(self, text: str) -> str:
        if not self.selector:
            return text
        return _SERIES.sub(lambda found: f"{found[1]}{{{self.selector}{', ' if found[2] else '}'}", text)

    def _variable(self, like: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return the variable of one label, whose choices depend on those of the labels before it."""
        label = self.fleet[number]
        matchers = ", ".join(part for part in (self.selector, _matching(self.fleet[:number])) if part)
        family = "tokentrace_worker_build_info" + (f"{{{matchers}}}" if matchers else "")
        query = {"query": f"label_values({family}, {label})", "refId": f"variable-{label}"}
        return {**like, "name": label, "label": label.replace("_", " ").capitalize(), "query": query}


def _matching(fleet: Sequence[str]) -> str:
    """Return the matchers by the variables of the dashboard."""
    return ", ".join(f'{label}=~"${label}"' for label in fleet)


def _matchers(selector: str) -> list[str]:
    found, rest = [], selector.strip()
    while rest:
        if not (match := _MATCHER.match(rest)):
            raise UsageError(
                f"{rest!r} is not a matcher that fits into the rules; write --selector 'cluster=\"eu\"', several with "
                "commas between them, and no quotes, backslashes, # or colon with a space in a value."
            )
        found.append(f"{match[1]}{match[2]}{match[3]}")
        rest = rest[match.end() :]
    return found


def _replaced(value: Any, query: Callable[[str], str]) -> Any:
    """Return a dashboard with every query replaced: those of panels, in `expr`, and those of variables."""
    if isinstance(value, list):
        return [_replaced(item, query) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: query(item) if key in ("expr", "query") and isinstance(item, str) else _replaced(item, query)
        for key, item in value.items()
    }
