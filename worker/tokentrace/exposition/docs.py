"""What `docs/metrics.md` is generated from: every family that a worker exposes, as Markdown tables."""

from __future__ import annotations

from tokentrace.aggregate.groups import GroupIndex
from tokentrace.exposition.worker_metrics import health_metrics
from tokentrace.model.families import ALERT_FAMILIES, CELL_FAMILIES, GLOBAL_FAMILIES, CounterFamily
from tokentrace.model.measures import Layout
from tokentrace.model.reasons import PART, WHOLE
from tokentrace.model.worker_stats import Recorder
from tokentrace.state.ledger import Ledger


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
    rows += [f"| `{each.name}` | {each.type} | {', '.join(each.labels)} | {each.help} |" for each in ALERT_FAMILIES]
    return "\n".join(rows) + "\n"


def worker_families() -> str:
    """The worker's own families."""
    health = Recorder("", "", 0.0).snapshot()
    rows = ["| family | type | labels | meaning |", "|---|---|---|---|"]
    nothing = Ledger(Layout.build(), GroupIndex(1), 1.0).snapshot
    for metric in health_metrics(health, nothing, 0.0):
        labels = getattr(metric, "_labelnames", ())
        name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
        kind = "gauge" if metric.type == "info" else metric.type
        rows.append(f"| `{name}` | {kind} | {', '.join(labels)} | {metric.documentation} |")
    return "\n".join(rows) + "\n"


def reject_reasons() -> str:
    """Values of the label `reason`."""
    rows = ["| reason | what is lost | meaning |", "|---|---|---|"]
    rows += [f"| `{reason}` | the message | {meaning} |" for reason, meaning in WHOLE.items()]
    rows += [f"| `{reason}` | a part | {meaning} |" for reason, meaning in PART.items()]
    return "\n".join(rows) + "\n"
