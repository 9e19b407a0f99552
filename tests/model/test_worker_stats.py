"""The worker's own health: what the loop wrote, frozen for the threads that read it."""

from __future__ import annotations

from dataclasses import asdict

from tokentrace.model.worker_stats import (
    BATCH_BOUNDS,
    SECONDS_BOUNDS,
    STAGES,
    Distribution,
    Lag,
    Observations,
    Recorder,
)


def test_an_observation_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    observations = Observations((1.0, 10.0))
    for value in (0.0, 1.0, 1.5, 10.0, 10.5, 1e9):
        observations.observe(value)
    assert observations.freeze() == Distribution((1.0, 10.0), (2, 2, 2), 1e9 + 23.0)


def test_a_recorder_starts_with_every_stage_and_outcome_at_zero() -> None:
    health = Recorder("replica-0", "exactly_once", 5.0).snapshot()
    assert health.stage_seconds == dict.fromkeys(STAGES, 0.0)
    assert health.commits == {"ok": 0, "dropped": 0, "failed": 0}
    assert health.rebalances == {"assign": 0, "revoke": 0, "lost": 0}
    assert health.batch_sizes == Distribution(BATCH_BOUNDS, (0,) * (len(BATCH_BOUNDS) + 1), 0.0)
    assert health.commit_seconds == Distribution(SECONDS_BOUNDS, (0,) * (len(SECONDS_BOUNDS) + 1), 0.0)
    assert (health.replica_id, health.guarantee, health.started_at_s) == ("replica-0", "exactly_once", 5.0)
    assert (health.not_ready, health.unreachable) == ("starting", "")


def test_a_snapshot_of_health_does_not_change_with_its_recorder() -> None:
    recorder = Recorder("replica-0", "at_least_once", 5.0)
    recorder.lag[1] = Lag(10, 2.5)
    before = recorder.snapshot()
    then = asdict(before)
    recorder.lag[1] = Lag(0, 0.0)
    recorder.lost_records[1] = 3
    recorder.batch_sizes.observe(7)
    recorder.commit_seconds.observe(0.5)
    for counts in (recorder.commits, recorder.rebalances):
        counts[next(iter(counts))] += 1
    recorder.stage_seconds["decode"] += 1.0
    recorder.not_ready = ""
    assert asdict(before) == then
    assert asdict(recorder.snapshot()) != then
