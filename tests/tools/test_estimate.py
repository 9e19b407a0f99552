"""Estimate: the demand of a sample, and the dimension that it comes from."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import raw_batch
from tests.spanfactory import ROOT, message, span
from tokentrace.config import Config, load_config
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.tools.estimate import DimensionEstimate, estimate, lines_of

TEXT = """
dimensions:
  team: {source: attributes.team}
  user: {source: attributes.user, limit: 100}
metrics:
  labels: {cost_total: [model, team, user]}
"""


def config_of(tmp_path: Path, text: str = TEXT) -> Config:
    path = tmp_path / "tokentrace.yml"
    path.write_text(text)
    return load_config(path, {})


def test_estimate_counts_the_demand_and_names_the_dimension_to_blame(tmp_path: Path) -> None:
    records = [
        span(attributes={"team": f"t{number % 5}", "user": f"u{number}"}, model=f"m{number % 2}")
        for number in range(400)
    ]
    values = [message(record) for record in records] + [b"junk"]
    config = config_of(tmp_path)
    batches = [raw_batch(values[:200]), raw_batch(values[200:])]
    found = estimate(config, batches, WriterSchemas())
    assert (found.spans, found.rejected, found.groups, found.combinations) == (400, 1, 2, 400)
    assert found.overflowed_spans == 0
    without = estimate(config_of(tmp_path, "metrics: {labels: {cost_total: [model]}}"), batches, WriterSchemas())
    # Each combination has a series of its cost, in place of one a model.
    assert found.series == without.series + 400 - 2
    by_team = without.series + 10 - 2
    assert found.dimensions == [
        DimensionEstimate("team", 5, 1000, 0, found.series),
        DimensionEstimate("user", 400, 100, 300, by_team),
    ]
    text = list(lines_of(found, config))
    assert "user: 400 values (limit: 100), 300 spans in __overflow__" in text[-2]
    assert text[-1].startswith(f"Most series come from user: {found.series - by_team:,} of")


def test_estimate_of_nothing_is_nothing(tmp_path: Path) -> None:
    found = estimate(config_of(tmp_path), [], WriterSchemas())
    assert (found.spans, found.series, [dimension.values for dimension in found.dimensions]) == (0, 0, [0, 0])
    assert len(list(lines_of(found, config_of(tmp_path)))) == 6


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        pytest.param("{}", 6000, id="default labels"),
        pytest.param(TEXT.replace("limit: 100", "limit: 20000"), 9000, id="two dimensions"),
        pytest.param(
            "dimensions: {team: {source: attributes.team}, user: {source: attributes.user, limit: 20000}}\n"
            "metrics: {labels: {latency_ms: [model, user], prompt_tokens: [model, user, team]}}",
            4000,
            id="histograms",
        ),
        pytest.param(
            "metrics: {buckets: {latency_ms: [1000], ttft_ms: [100], prompt_tokens: [10], completion_tokens: [10]}}",
            8000,
            id="few buckets",
        ),
    ],
)
def test_estimated_memory_is_that_of_a_process_that_counts(tmp_path: Path, text: str, groups: int) -> None:
    config, rng = config_of(tmp_path, text), random.Random(groups)
    values = [
        message(
            span(
                model=f"model-{number % 20}",
                caller=f"caller-{number % groups if 'team' not in text else number % 5}",
                attributes={"team": f"team-{number % groups % 40}", "user": f"user-{number % groups}"},
                status=rng.choice(["ok", "ok", "error"]),
                latency_ms=rng.random() * 1000,
                ttft_ms=rng.random() * 100,
                prompt_tokens=rng.randrange(5000),
            )
        )
        for number in range(2 * groups)
    ]
    found = estimate(config, [raw_batch(values)], WriterSchemas())
    sample = tmp_path / "sample"
    sample.write_text("\n".join(value.hex() for value in values))
    command = [sys.executable, "-m", "tests.tools.counting_process", str(tmp_path / "tokentrace.yml"), str(sample)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.memory_bytes == pytest.approx(json.loads(run.stdout), rel=0.25)
