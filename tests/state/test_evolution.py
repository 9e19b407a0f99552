"""A measure is added by one line in the table and one field in the schema; state of either version is read by both."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services import ROOT
from tests.services.packages import python, trial_package
from tests.spanfactory import random_span
from tests.state.test_golden import golden, layout_of
from tokentrace.errors import FatalError
from tokentrace.state.records import ROLLUP_BYTES, Progress, StateCodec
from tokentrace.state.schemas import SCHEMA_HEADER, RecordSchemas, decode_record, record_schemas, schema_headers

CURRENT = ROOT / "worker"
TOOLS = "tool_prompt_tokens"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trial_package(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def spans() -> list[dict[str, Any]]:
    rng = random.Random(9)
    return [{**random_span(rng), TOOLS: rng.choice([None, 0, rng.randrange(5000)])} for _ in range(150)]


def run(package: Path, action: str, document: Any) -> Any:
    return json.loads(python(package, "-m", "tests.state.evolution", action, stdin=json.dumps(document)))


@pytest.fixture(scope="module")
def current_state(spans: list[dict[str, Any]]) -> Any:
    """Records that this version wrote."""
    return run(CURRENT, "write", spans)


@pytest.fixture(scope="module")
def trial_state(trial: Path, spans: list[dict[str, Any]]) -> Any:
    """Records that the version with the trial measure wrote."""
    return run(trial, "write", spans)


@pytest.fixture(scope="module")
def trial_totals(trial: Path, trial_state: Any) -> Any:
    return run(trial, "read", trial_state)


def without_tools(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if TOOLS not in name}


def test_measure_of_one_line_goes_from_the_span_to_the_exposition(
    spans: list[dict[str, Any]], trial_state: Any, trial_totals: Any
) -> None:
    counted = sum(span[TOOLS] or 0 for span in spans)
    by_caller = Counter[tuple[str, ...]]()
    for span in spans:
        by_caller[span["model"], span["provider"], span["caller"]] += span[TOOLS] or 0
    for (model, provider, caller), count in by_caller.items():
        sample = f'tokentrace_{TOOLS}_total{{model="{model}",provider="{provider}",caller="{caller}"}} {count}\n'
        assert sample in trial_state["text"]
    assert f"# TYPE tokentrace_{TOOLS}_total counter\n" in trial_state["text"]
    assert f"# TYPE tokentrace_{TOOLS} histogram\n" in trial_state["text"]
    found = trial_totals
    assert sum(row[TOOLS] for row in found["cells"].values()) == counted
    assert sum(row[f"histogram of {TOOLS}"][1] for row in found["cells"].values()) == counted
    assert found["rollups"][TOOLS] == counted


def test_golden_records_are_read_where_a_measure_was_added(trial: Path) -> None:
    python(trial, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/state/test_golden.py")


def test_state_of_this_version_is_read_where_a_measure_was_added(trial: Path, current_state: Any) -> None:
    known, found = run(CURRENT, "read", current_state), run(trial, "read", current_state)
    assert {key: without_tools(row) for key, row in found["cells"].items()} == known["cells"]
    assert without_tools(found["rollups"]) == known["rollups"]
    assert {row[TOOLS] for row in [*found["cells"].values(), found["rollups"]]} == {0}


def test_state_with_a_measure_more_is_read_after_a_roll_back(trial_state: Any, trial_totals: Any) -> None:
    written, known, found = trial_state, trial_totals, run(CURRENT, "read", trial_state)
    assert found["cells"] == {key: without_tools(row) for key, row in known["cells"].items()}
    assert found["rollups"] == without_tools(known["rollups"])
    assert found["headers"] == 2, "cells that a later version wrote stay readable for whoever comes next"
    again = run(CURRENT, "read", {**written, "state": found["again"]})
    assert again["cells"] == found["cells"]
    assert sum(len(headers) for _, _, headers in written["rollups"]) == len(written["rollups"])


def test_schemas_that_travel_are_small(trial_state: Any) -> None:
    headers = [header for topic in ("state", "rollups") for _, _, found in trial_state[topic] for _, header in found]
    assert 0 < sum(map(len, headers)) < 2000  # In base64, of one commit.


@pytest.mark.parametrize("headers", [None, [], [(SCHEMA_HEADER, b"no schema")], [("other", b"")]], ids=repr)
def test_record_of_an_unknown_schema_is_refused(headers: Any) -> None:
    with pytest.raises(FatalError, match="newer version"):
        decode_record(b"\xc3\x01" + bytes(8) + b"x", "state-cell", headers)


def test_record_of_another_kind_is_refused() -> None:
    value = golden("0.1.0")[0]["rollups"][0][1]
    with pytest.raises(FatalError, match="A rollup record was found where state-cell records are expected"):
        decode_record(value, "state-cell")


def test_schema_with_a_field_of_another_type_is_refused() -> None:
    """A forbidden change of a later version is found by name, and not read as something else."""
    today = {"type": "record", "name": "R", "namespace": "n", "fields": [{"name": "a", "type": "long"}]}
    later = {**today, "fields": [{"name": "a", "type": "string"}]}
    writer, reader = RecordSchemas({"r": later}, {}), RecordSchemas({"r": today}, {})
    value = writer.encode("r", {"a": "text"})
    with pytest.raises(FatalError, match="of another version of tokentrace cannot be read"):
        reader.decode(value, "r", list(writer.headers(value)))


def test_schemas_of_the_first_release_do_not_travel() -> None:
    for pairs in golden("0.1.0")[0].values():
        for _, value in pairs:
            assert schema_headers(value) == []
    assert schema_headers(None) == []


def test_state_codec_writes_the_bytes_of_the_first_release() -> None:
    """So that 0.1.0 reads them after a roll-back, as long as nothing is counted that it does not know."""
    records, expected = golden("0.1.0")
    codec = StateCodec(layout_of(expected))
    cells = [
        (key, value) for key, value in records["state"] if value[:10] == record_schemas().first_prefix("state-cell")
    ]
    assert cells
    for _, value in cells:
        row, created_s = codec.cell(value)
        assert list(codec.cells(np.array([row]), np.array([created_s]))) == [value]
    for _, value in records["rollups"]:
        record = decode_record(value, "rollup")
        minutes, found, values = codec.rollup_rows(record)
        reached = {partition["partition"]: partition["event_time"] for partition in record["reached"]}
        progress = Progress(record["source_partitions"], reached, record["clamped"])
        assert len(value) < ROLLUP_BYTES
        again = codec.rollups(record["replica"], record["committed_at"] / 1e6, minutes, found, values, progress)
        assert list(again) == [value]
