"""(f) Start-up: the whole process from start to end of `--help`, and from start to ready.

The baselines are an interpreter that does nothing, and one that only imports the libraries that a worker cannot be
without.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.services import unmeasured
from tests.services.kafka import KafkaBroker

from .effort import Effort
from .measure import Figure, Row, in_turns
from .workers import running_worker, timed, write_config
from .workload import workload

LIBRARIES = "import confluent_kafka, fastavro, numpy, prometheus_client, pydantic, uvicorn, yaml"


def run(effort: Effort, broker: KafkaBroker | None) -> Figure:
    def program(*arguments: str) -> float:
        return timed(
            lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=unmeasured())
        )

    nothing, libraries, help_s = in_turns(
        effort.repeats,
        lambda: program("-c", "pass"),
        lambda: program("-c", LIBRARIES),
        lambda: program("-m", "tokentrace", "--help"),
    )
    rows = [Row("tokentrace --help", help_s.text(" s"), help_s.over(nothing).text(), "python -c pass")]
    results = {"help_s": help_s.median, "help_vs_python": help_s.over(nothing).median, "ready_s": None}
    if broker is not None:
        load = workload("default", 1, 1)
        broker.create_topic("bench-startup", 1)
        with tempfile.TemporaryDirectory() as folder:

            def until_ready() -> float:
                # Stopping is not part of it.
                context = running_worker(write_config(Path(folder), broker, "bench-startup", load))
                seconds = timed(context.__enter__)
                context.__exit__(None, None, None)
                return seconds

            ready, libraries = in_turns(effort.repeats, until_ready, lambda: program("-c", LIBRARIES))
        rows.append(Row("worker, until ready", ready.text(" s"), ready.over(libraries).text(), "imports alone"))
        results |= {"ready_s": ready.median, "ready_vs_imports": ready.over(libraries).median}
    return Figure("f start-up", rows, {"startup": results})
