"""Run the benchmarks, print the table and, on request, write one JSON object. `make bench` calls it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import disable_created_metrics
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker

from . import (
    a_decode_aggregate,
    b_end_to_end,
    c_exposition,
    d_memory,
    e_latency,
    f_startup,
    g_guarantees,
    h_restore,
    i_alerts,
    j_publisher,
    k_page,
    l_ledger,
    m_otlp,
)
from .broker import running_broker
from .effort import FULL, QUICK, Effort
from .measure import Figure, table

LETTERS: Final = "abcdefghijklm"

#: Keys that are in the object whatever could be measured: None for what needs a Kafka and had none.
KEYS: Final = {
    "decode_aggregate": (
        "vs_prometheus_client",
        "vs_fastavro_dict",
        "wide_vs_fastavro_dict",
        "spans_per_s",
        "with_dimensions",
    ),
    "end_to_end": ("vs_bare_consume", "vs_serial_bound", "spans_per_s"),
    "exposition": ("vs_prometheus_client",),
    "memory": ("rss_mb_10000_groups",),
    "latency": ("p99_s",),
    "startup": ("help_s", "ready_s"),
    "guarantees": ("vs_at_least_once_1s",),
    "restore": ("restore_s_10000_groups",),
    "publisher": ("us_per_span", "vs_by_hand"),
    "ledger": ("cells_per_s", "vs_row_by_row", "bytes_per_cell", "counting_vs_without"),
    "alerts": ("evaluate_s", "windows_mb", "counting_vs_without"),
    "otlp": ("spans_per_s", "vs_upb"),
    "page": ("counting_vs_without", "share_of_a_core"),
}


def run(effort: Effort, chosen: str = LETTERS) -> tuple[list[Figure], dict[str, Any]]:
    """The chosen figures, and the object of all."""
    figures: list[Figure] = []
    with _broker_if_any(chosen) as broker:
        for letter, figure in _figures(effort, broker).items():
            if letter in chosen:
                began = time.monotonic()
                figures.append(figure())
                _say(f"{figures[-1].title}: {time.monotonic() - began:.0f} s")
    found: dict[str, Any] = {section: dict.fromkeys(keys) for section, keys in KEYS.items()}
    for figure_ in figures:
        for section, values in figure_.results.items():
            found[section] = {**found.get(section, {}), **values}
    return figures, {"machine": machine(), **found}


def _figures(effort: Effort, broker: KafkaBroker | None) -> dict[str, Callable[[], Figure]]:
    without = {
        "a": lambda: a_decode_aggregate.run(effort),
        "c": lambda: c_exposition.run(effort),
        "f": lambda: f_startup.run(effort, broker),
        "i": lambda: i_alerts.run(effort, broker),
        "k": lambda: k_page.run(effort),
        "l": lambda: l_ledger.run(effort, broker),
        "m": lambda: m_otlp.run(effort),
    }
    if broker is None:
        return without
    real = broker
    with_kafka = {
        "b": lambda: b_end_to_end.run(effort, real),
        "d": lambda: d_memory.run(effort, real),
        "e": lambda: e_latency.run(effort, real),
        "g": lambda: g_guarantees.run(effort, real),
        "h": lambda: h_restore.run(effort, real),
        "j": lambda: j_publisher.run(effort, real),
    }
    return dict(sorted({**without, **with_kafka}.items()))


@contextlib.contextmanager
def _broker_if_any(chosen: str) -> Iterator[KafkaBroker | None]:
    if not set(chosen) & set("bdefghijl"):
        yield None
        return
    with contextlib.ExitStack() as stack:
        broker = None
        try:
            broker = stack.enter_context(running_broker())
        except Unavailable as error:
            _say(f"No Kafka ({error}): without the figures b, d, e, g, h and j.")
        yield broker


def machine() -> dict[str, Any]:
    """Return the machine and the versions that the figures are from."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one JSON object")
    parser.add_argument("--only", default=LETTERS, metavar="LETTERS", help="figures to run, for example bc")
    arguments = parser.parse_args()
    # Lines that tokentrace does not write in this format either. For the whole process, so not where it is imported.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    figures, found = run(QUICK if arguments.quick else FULL, arguments.only)
    where = found["machine"]
    print(f"{where['cpu']}, {where['cores']} cores, load {where['load']}, Python {where['python']}, {where['date']}\n")
    print(table(figures))
    print("\nMedian [lowest..highest repeat]; a ratio is the median over turns in which both ran one after the other.")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
