"""Markdown tables of docs/metrics.md: every family that a worker exposes, from the declarations."""

from __future__ import annotations

from tokentrace.exposition.ledger_metrics import own_process_families
from tokentrace.exposition.worker_metrics import declared_families
from tokentrace.model.families import (
    ALERT_FAMILIES,
    BUDGET_FAMILIES,
    BUDGET_GROUP_FAMILIES,
    CELL_FAMILIES,
    GLOBAL_FAMILIES,
    LEDGER_FAMILIES,
    CounterFamily,
)
from tokentrace.model.reasons import PART, WHOLE


def span_families() -> str:
    """The families that are computed from spans."""
    rows = ["| family | type | labels | meaning |", "|---|---|---|---|"]
    for family in (*CELL_FAMILIES, *GLOBAL_FAMILIES):
        labels = list(family.labels)
        if isinstance(family, CounterFamily) and family.extra_label not in ("", *labels):
            labels.append(family.extra_label)
        rows.append(f"| `{family.name}` | {family.type} | {', '.join(labels)} | {family.help} |")
    return "\n".join(rows) + "\n"


def alert_families() -> str:
    """The families of the built-in alerts."""
    rows = ["| family | type | labels | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{family.name}` | {family.type} | {', '.join(family.labels)} | {family.help} |" for family in ALERT_FAMILIES
    ]
    return "\n".join(rows) + "\n"


def budget_families() -> str:
    """The families of the budgets."""
    rows = ["| family | type | labels | meaning |", "|---|---|---|---|"]
    for family in BUDGET_FAMILIES:
        labels = ", ".join(family.labels) + (", those of `group_by`" if family in BUDGET_GROUP_FAMILIES else "")
        rows.append(f"| `{family.name}` | {family.type} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"


def ledger_families() -> str:
    """The families of a ledger, and those of a process of its own."""
    rows = ["| family | type | meaning |", "|---|---|---|"]
    rows += [f"| `{family.name}` | {family.type} | {family.help} |" for family in LEDGER_FAMILIES]
    rows += [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in own_process_families()]
    return "\n".join(rows) + "\n"


def worker_families() -> str:
    """The worker's own families."""
    rows = ["| family | type | labels | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {kind} | {', '.join(labels)} | {meaning} |"
        for name, kind, labels, meaning in declared_families()
    ]
    return "\n".join(rows) + "\n"


def reject_reasons() -> str:
    """Values of the label `reason`."""
    rows = ["| reason | what is lost | meaning |", "|---|---|---|"]
    rows += [f"| `{reason}` | the message | {meaning} |" for reason, meaning in WHOLE.items()]
    rows += [f"| `{reason}` | a part | {meaning} |" for reason, meaning in PART.items()]
    return "\n".join(rows) + "\n"
