"""Estimate: the demand of a sample, and the dimension that it comes from."""

from __future__ import annotations

from pathlib import Path

from tests.harness import raw_batch
from tests.spanfactory import message, span
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
