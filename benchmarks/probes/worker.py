"""A worker: the real `Service`, watched from a thread of its own that looks at its last snapshot.

usage: python -m benchmarks.probes.worker CONFIG COUNT

Ends when so many messages are committed. The rate is over the commits between the first and the last one, so that
neither joining the group nor the wait for the last commit is in it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from tokentrace.runtime import process

process.before_imports()  # As `tokentrace worker` does.

from tokentrace.config import load_config  # noqa: E402
from tokentrace.model.snapshot import Snapshot  # noqa: E402
from tokentrace.runtime import log  # noqa: E402
from tokentrace.runtime.service import Service  # noqa: E402

_LOOK_S = 0.005


def counted(snapshot: Snapshot) -> int:
    return sum(audit.polled for audit in snapshot.partitions.values())


def main() -> None:
    path, count = Path(sys.argv[1]), int(sys.argv[2])
    config = load_config(path)
    log.set_up("warning", "json")
    service = Service(config)
    commits: list[tuple[float, int]] = []

    def watch() -> None:
        last = None
        while not commits or commits[-1][1] < count:
            snapshot = service.snapshot
            if snapshot is not last and snapshot.partitions:
                last = snapshot
                if not commits or counted(snapshot) > commits[-1][1]:
                    commits.append((snapshot.committed_at_s, counted(snapshot)))
            time.sleep(_LOOK_S)
        service.stop(drain=False)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    process.tune_gc()
    service.run()
    watcher.join(1.0)
    # The last commit was waited for; the one before it may be the first.
    steady = commits[:-1] if len(commits) > 2 else commits
    seconds = steady[-1][0] - steady[0][0]
    rate = (steady[-1][1] - steady[0][1]) / seconds if seconds > 0 else 0.0
    stages = dict(service.stats.stage_seconds)
    print(
        json.dumps(
            {
                "spans_per_s": rate,
                "counted": commits[-1][1],
                "rejected": dict(service.snapshot.rejected),
                "commits": len(commits),
                "stage_seconds": stages,
                "cpu_s": time.process_time(),
            }
        )
    )


if __name__ == "__main__":
    main()
