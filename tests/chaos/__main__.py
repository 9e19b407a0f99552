"""`make chaos`: each kill point twenty times, and storms: ten minutes, five on three brokers, and on weaker guarantees.

DURATION=40s runs the storms alone, for so long. JSON=FILE writes what the exactly-once storms showed, and beside it how
much the others miscount. SEED chooses another storm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos import seconds
from tests.chaos.crashing import POINTS
from tests.chaos.fleet import Replica
from tests.chaos.kill_points import run as crash_at
from tests.chaos.storm import Storm
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker

FULL_S = 600.0
CLUSTER_S = 300.0
CRASHES = 20
SPANS = 2_000_000


class PlainReplica(Replica):
    """A replica as peers are: counters in memory, offsets auto-committed."""

    def _start(self) -> subprocess.Popen[bytes]:
        self.lives += 1
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.plain_worker", str(self._config)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> bool:
        try:
            return self.get("/metrics")[0] == 200
        except OSError:
            return False


def main() -> int:
    duration_s = seconds(os.environ["DURATION"]) if os.environ.get("DURATION") else None
    seed = int(os.environ.get("SEED") or 1)
    exact = True
    try:
        with tempfile.TemporaryDirectory() as folder:
            if duration_s is None:
                exact = kill_points(Path(folder))
            report = storms(Path(folder), duration_s or FULL_S, seed)
    except Unavailable as error:
        raise SystemExit(f"No chaos without a real Kafka: {error}.") from error
    if os.environ.get("JSON"):
        Path(os.environ["JSON"]).write_text(json.dumps(report, indent=2) + "\n")
    return 0 if exact and report["exact"] else 1


def kill_points(folder: Path) -> bool:
    broker = KafkaBroker(folder / "points-kafka")
    broker.start()
    exact = True
    spans = SPANS // (2 * len(POINTS))
    try:
        for protocol in ("classic", "consumer"):
            for point in POINTS:
                outcome = crash_at(broker, folder / f"{point}-{protocol}", [point], CRASHES, protocol, spans=spans)
                exact &= outcome.exact
                print(
                    f"{point:20} {protocol:9} {outcome.crashes:3} crashes {outcome.produced:9,} spans "
                    f"{'exact' if outcome.exact else 'NOT EXACT'}",
                    flush=True,
                )
    finally:
        broker.stop()
    return exact


def storms(folder: Path, duration_s: float, seed: int) -> dict[str, Any]:
    report = exactly_once(f"Storm of {duration_s:.0f} s", Storm(folder / "exactly-once", seed), duration_s)
    cluster_s = min(duration_s, CLUSTER_S)
    cluster = Storm(folder / "three-brokers", seed, brokers=3)
    report["three_brokers"] = exactly_once(f"Storm of {cluster_s:.0f} s on three brokers", cluster, cluster_s)
    report["exact"] &= report["three_brokers"]["exact"]
    # The weaker ones show that the storm can tell. Half a minute is enough for that.
    for name, sections, make in (
        ("at_least_once", {"worker": {"guarantee": "at_least_once"}}, Replica),
        ("in_memory", {}, PlainReplica),
    ):
        weak = Storm(folder / name, seed, sections, make, settle_s=15.0).run(min(duration_s, 30.0))
        report[name] = {
            "produced": weak.produced,
            "counted": weak.counted,
            "differences": len(weak.differences),
            "unseen": len(weak.unseen),
        }
        print(f"The same on {name}: {json.dumps(report[name])}", flush=True)
    return report


def exactly_once(name: str, storm: Storm, duration_s: float) -> dict[str, Any]:
    """Run a storm under which nothing may differ and no replica may end by itself, and print what it showed."""
    print(f"{name}, exactly once:", flush=True)
    result = storm.run(duration_s)
    print("  " + json.dumps(result.as_json()), flush=True)
    unlike = [*result.differences.items(), *result.unseen.items()]
    for line in [*unlike, *result.steps_back, *result.above_truth, *result.unexpected_exits][:10]:
        print(f"  {line}", flush=True)
    if unlike or result.unexpected_exits:
        kept = shutil.copytree(storm.folder, tempfile.mkdtemp(prefix="storm-"), dirs_exist_ok=True, ignore=_is_kafka)
        print(f"  The logs of the replicas are kept in {kept}.", flush=True)
    return result.as_json() | {"exact": result.exact and not result.unexpected_exits}


def _is_kafka(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "kafka"]


if __name__ == "__main__":
    sys.exit(main())
