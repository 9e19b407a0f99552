"""Validation: what is counted, what is rejected and what is counted without a part, exactly at the limits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.helpers import spans_of
from tests.harness import span_batch
from tests.spanfactory import span
from tokentrace.aggregate.validate import validate
from tokentrace.model import reasons
from tokentrace.model.messages import Reject

BEFORE = span(model="before", cached_prompt_tokens=100, reasoning_tokens=20, cost_usd=0.5, latency_ms=9.0)
AFTER = span(model="after", completion_tokens=None, total_tokens=130, attributes={"eval.score": 1.0}, ttft_ms=2.0)
AFTER_COUNTED = AFTER | {"completion_tokens": 30}
#: A span that has used nothing, and does not cost anything either.
NOTHING = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "cost_usd"))
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens", "reasoning_tokens")
#: Counts so large that no part is larger than its whole.
ROOMY = {"prompt_tokens": 10**9, "completion_tokens": 10**9}
TINY = math.ulp(0.0)


def validated(**fields: Any) -> tuple[list[dict[str, Any]], list[Reject], dict[str, int]]:
    """The spans to count, the rejects and the parts of a span between two good ones, which come through untouched."""
    valid = validate(span_batch(BEFORE, span(**fields), AFTER))
    rows = valid.spans.row.tolist()
    assert rows == [row for row in range(3) if row not in {reject.row for reject in valid.rejects}]
    spans = spans_of(valid.spans)
    assert [spans[0], spans[-1]] == spans_of(span_batch(BEFORE, AFTER_COUNTED))
    return spans[1:-1], valid.rejects, valid.parts


def counted_as(counted: dict[str, Any], **fields: Any) -> dict[str, int]:
    """The parts that a span with `fields` is counted without, when it comes out as one with `counted`."""
    spans, rejects, parts = validated(**fields)
    assert (spans, rejects) == (spans_of(span_batch(span(**counted))), [])
    return parts


AT_THE_LIMIT: list[dict[str, Any]] = [
    *(ROOMY | {name: value} for name in COUNTS[2:] for value in (0, 10**9)),
    {"prompt_tokens": 0},
    {"prompt_tokens": 10**9},
    {"completion_tokens": 0},
    {"completion_tokens": 10**9},
    {"cost_usd": 0.0},
    {"cost_usd": -0.0},
    {"cost_usd": TINY},
    {"cost_usd": 1e6},
    *({name: value} for name in ("latency_ms", "ttft_ms") for value in (0.0, -0.0, TINY, 1e9)),
    *({name: "é" * 512} for name in ("model", "provider", "caller")),
    {"model": "m"},
    {"provider": ""},
    {"caller": ""},
    *({"attributes": {"eval.score": value}} for value in (0.0, -0.0, TINY, 1.0)),
    {"cached_prompt_tokens": 100},
    {"reasoning_tokens": 20},
    *({"status": status} for status in ("ok", "error", "timeout")),
    {"completion_tokens": None},
    {"prompt_tokens": None},
]


@pytest.mark.parametrize("fields", AT_THE_LIMIT, ids=str)
def test_a_span_at_the_limit_is_counted_whole(fields: dict[str, Any]) -> None:
    assert counted_as(fields, **fields) == {}


ABOVE_1E6, ABOVE_1E9 = math.nextafter(1e6, math.inf), math.nextafter(1e9, math.inf)
BEYOND: list[tuple[str, dict[str, Any], str]] = [
    ("unknown_status", {"status": "cancelled"}, ""),
    ("model_missing", {"model": ""}, ""),
    *(("label_too_long", {name: "é" * 512 + "x"}, "") for name in ("model", "provider", "caller")),
    ("no_token_count", NOTHING, ""),
    ("no_token_count", {**NOTHING, "latency_ms": 9.0}, ""),
    *(
        (reason, dict.fromkeys(COUNTS) | {"prompt_tokens": 5} | {name: value}, f"{name}={value}")
        for reason, values in (("negative_tokens", (-1, -(2**63))), ("tokens_out_of_range", (10**9 + 1, 2**63 - 1)))
        for name in COUNTS
        for value in values
    ),
    *(
        ("negative_tokens", {"usage": {unit: value}}, f"{unit}=-1")
        for unit in ("page", "second")
        for value in (-1.0, -1e-9, math.nan, -math.inf)
    ),
    ("negative_tokens", {"cache_write_tokens": -1}, "cache_write_tokens=-1"),
    ("tokens_out_of_range", {"cache_write_tokens": 10**9 + 1}, f"cache_write_tokens={10**9 + 1}"),
    ("tokens_out_of_range", {"web_searches": 10**6 + 1}, f"web_searches={10**6 + 1}"),
    ("tokens_out_of_range", {"usage": {"page": 1e300}}, "page=1000000000000000"),
    ("tokens_out_of_range", {"usage": {"second": 1_000_000.001}}, "second=1000000001"),
    *(("cost_invalid", {"cost_usd": value}, f"cost_usd={value}") for value in (math.nan, math.inf, -math.inf, -TINY)),
    *(("cost_out_of_range", {"cost_usd": value}, f"cost_usd={value}") for value in (ABOVE_1E6, 1e300)),
    *(
        (reason, {name: value}, f"{name}={value}")
        for reason, values in (
            ("latency_invalid", (math.nan, math.inf, -math.inf, -TINY, -5.0)),
            ("latency_out_of_range", (ABOVE_1E9, 1e300)),
        )
        for name in ("latency_ms", "ttft_ms")
        for value in values
    ),
]


@pytest.mark.parametrize(("reason", "fields", "seen"), BEYOND, ids=lambda value: str(value)[:60])
def test_a_span_beyond_the_limit_is_rejected_with_what_was_seen(reason: str, fields: dict[str, Any], seen: str) -> None:
    spans, rejects, parts = validated(**fields)
    assert (spans, parts) == ([], {})
    (reject,) = rejects
    assert (reject.row, reject.reason) == (1, reason)
    sentence = reasons.WHOLE[reason].removesuffix(".")
    if not seen:
        assert reject.error == f"{sentence}."
    else:
        shown = reject.error.removeprefix(f"{sentence} (").removesuffix(").").split(", ")
        assert seen in shown
        given = {*fields, *fields.get("usage", {})}
        assert all(part.split("=")[0] in given or part == "prompt_tokens=100" or "tokens" in part for part in shown)


def test_every_reason_that_a_span_itself_can_give_is_in_the_order_of_its_contract() -> None:
    order = [reason for reason in reasons.WHOLE if reason in {reason for reason, _, _ in BEYOND}]
    assert order == list(reasons.WHOLE)[list(reasons.WHOLE).index("unknown_status") :]


BAD_OF = {reason: fields for reason, fields, _ in reversed(BEYOND)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pair
        for pair in itertools.combinations([reason for reason in reasons.WHOLE if reason in BAD_OF], 2)
        if not set(BAD_OF[pair[0]]) & set(BAD_OF[pair[1]])
    ],
)
def test_reject_names_the_first_reason_of_the_contract(first: str, second: str) -> None:
    _, rejects, _ = validated(**(BAD_OF[second] | BAD_OF[first]))
    assert [reject.reason for reject in rejects] == [first]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -TINY, math.nextafter(1.0, 2.0), 7.0])
def test_a_score_that_is_no_number_from_0_to_1_is_left_out(score: float) -> None:
    assert counted_as({}, attributes={"eval.score": score}) == {"eval_score_invalid": 1}


@pytest.mark.parametrize(
    ("fields", "counted", "part"),
    [
        ({"reasoning_tokens": 21}, {}, "reasoning_tokens_invalid"),
        ({"completion_tokens": 0, "reasoning_tokens": 1}, {"completion_tokens": 0}, "reasoning_tokens_invalid"),
    ],
)
def test_a_part_that_is_larger_than_its_whole_is_left_out(
    fields: dict[str, Any], counted: dict[str, Any], part: str
) -> None:
    assert counted_as(counted, **fields) == {part: 1}


@pytest.mark.parametrize(
    ("prompt", "completion", "total", "split"),
    [
        (70, None, 100, (70, 30)),
        (None, 30, 100, (70, 30)),
        (100, None, 100, (100, 0)),
        (0, 30, 100, (70, 30)),
        (70, 0, 100, (70, 30)),
        (0, 30, 30, (0, 30)),
        (0, 0, 0, (0, 0)),
        (None, None, 0, (0, None)),
        (101, None, 100, (101, None)),
        (None, 101, 100, (None, 101)),
        (7, 8, 100, (7, 8)),
        (7, None, None, (7, None)),
        (None, 8, None, (None, 8)),
    ],
)
def test_a_missing_count_is_derived_from_the_total(
    prompt: int | None, completion: int | None, total: int | None, split: tuple[int | None, int | None]
) -> None:
    counted = {"prompt_tokens": split[0], "completion_tokens": split[1], "total_tokens": total}
    fields = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    assert counted_as(counted, **fields) == {}


def test_a_derived_count_is_the_whole_of_its_part() -> None:
    derived = {"prompt_tokens": None, "completion_tokens": 30, "total_tokens": 100}
    whole = derived | {"prompt_tokens": 70}
    assert counted_as(whole | {"cached_prompt_tokens": 70}, **derived, cached_prompt_tokens=70) == {}


EXCLUDES, BELOW = {"repaired_prompt_excludes_cache": 1}, {"repaired_whole_below_parts": 1}


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        # Alone, a total is all prompt, and an estimate.
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": 9}, {"prompt_tokens": 9, "estimated": 1}),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 9}, {"prompt_tokens": 9, "estimated": 1}),
        # More cached than prompt tokens: the prompt tokens are those beside them.
        ({"cached_prompt_tokens": 101}, {"prompt_tokens": 201} | EXCLUDES),
        ({"prompt_tokens": 0, "cached_prompt_tokens": 1}, {"prompt_tokens": 1} | EXCLUDES),
        ({"prompt_tokens": None, "cached_prompt_tokens": 1}, {"prompt_tokens": 1}),
        ({"cached_prompt_tokens": 100}, {}),
        ({"cached_prompt_tokens": 60, "cache_write_tokens": 40}, {}),
        ({"cached_prompt_tokens": 60, "cache_write_tokens": 41}, {"prompt_tokens": 201} | EXCLUDES),
        ({"cache_write_tokens": 3755, "cache_write_1h_tokens": 3755}, {"prompt_tokens": 3855} | EXCLUDES),
        # The flag says it.
        ({"cached_prompt_tokens": 60, "prompt_tokens_include_cache": 0}, {"prompt_tokens": 160}),
        ({"cached_prompt_tokens": 300, "prompt_tokens_include_cache": 0}, {"prompt_tokens": 400}),
        ({"cached_prompt_tokens": 60, "prompt_tokens_include_cache": 1}, {}),
        ({"cached_prompt_tokens": 300, "prompt_tokens_include_cache": 1}, {"prompt_tokens": 300} | BELOW),
        (
            {"prompt_tokens": None, "total_tokens": 120, "cached_prompt_tokens": 60, "prompt_tokens_include_cache": 0},
            {"prompt_tokens": 100},
        ),
        # A whole holds its parts, each of them once.
        ({"cache_write_1h_tokens": 7}, {"cache_write_tokens": 7}),
        ({"cache_write_tokens": 6, "cache_write_1h_tokens": 7}, {"cache_write_tokens": 7} | BELOW),
        ({"audio_prompt_tokens": 90, "image_prompt_tokens": 20}, {"prompt_tokens": 110} | BELOW),
        ({"audio_completion_tokens": 21}, {"completion_tokens": 21} | BELOW),
        (
            {"prompt_tokens": None, "completion_tokens": None, "usage": {"audio_cache_read": 5}},
            {"prompt_tokens": 5, "cached_prompt_tokens": 5, "audio_prompt_tokens": 5},
        ),
        (
            {"cached_prompt_tokens": 60, "audio_prompt_tokens": 60, "usage": {"audio_cache_read": 20}},
            {"prompt_tokens": 100},
        ),
        ({"cached_prompt_tokens": 60, "audio_prompt_tokens": 60}, {"prompt_tokens": 120} | BELOW),
        ({"usage": {"annotated_page": 2}}, {"page": 2}),
        ({"prompt_tokens": None, "completion_tokens": None, "reasoning_tokens": 9}, {"completion_tokens": 9}),
        # A field is before the map.
        ({"audio_prompt_tokens": 9, "usage": {"audio_prompt": 8.0, "prompt": 70.0}}, {}),
        (
            {"prompt_tokens": None, "usage": {"audio_prompt": 8.0, "prompt": 70.0}},
            {"prompt_tokens": 70, "audio_prompt_tokens": 8},
        ),
    ],
    ids=str,
)
def test_counts_that_contradict_each_other_lose_nothing(fields: dict[str, Any], counted: dict[str, Any]) -> None:
    usage = {unit: round(quantity) for unit, quantity in fields.get("usage", {}).items() if "prompt" not in unit}
    expected = span(**{name: value for name, value in fields.items() if name != "usage"}) | usage | counted
    spans, rejects, parts = validated(**fields)
    assert (rejects, parts) == ([], {})
    wanted = {name: value for name, value in expected.items() if isinstance(value, int)}
    wanted |= {f"{name}_us": wanted.pop(name) for name in ("started_at", "ended_at")}
    assert {name: value for name, value in spans[0].items() if isinstance(value, int)} == wanted


def test_a_call_without_tokens_is_counted_where_it_has_anything_to_count() -> None:
    usages: list[dict[str, Any]] = [{"web_searches": 1}, {"usage": {"page": 1.0}}, {"usage": {"request": 1}}]
    for fields in [{"status": "error"}, {"status": "timeout"}, {"cost_usd": 0.5}, *usages]:
        spans, rejects, _ = validated(**(NOTHING | fields))
        assert (len(spans), rejects) == (1, [])


def test_every_part_reason_is_counted_once_a_span() -> None:
    fields = {"reasoning_tokens": 21, "attributes": {"eval.score": 2.0}}
    valid = validate(span_batch(span(**fields), span(), span(**fields), span(reasoning_tokens=21)))
    assert valid.parts == dict.fromkeys(reasons.PART, 2) | {"reasoning_tokens_invalid": 3}


def test_the_parts_of_a_rejected_span_are_not_counted() -> None:
    _, rejects, parts = validated(model="", reasoning_tokens=21, attributes={"eval.score": 9.0})
    assert ([reject.reason for reject in rejects], parts) == (["model_missing"], {})


def test_rejects_name_the_messages_rows_and_not_the_spans_places() -> None:
    batch = span_batch(span(), span(model=""), span(), span(model="")).take(np.array([1, 3]))
    assert [reject.row for reject in validate(batch).rejects] == [1, 3]


def test_an_empty_batch_is_valid() -> None:
    valid = validate(span_batch())
    assert (len(valid.spans), valid.rejects, valid.parts) == (0, [], {})


NUMBER = st.none() | st.sampled_from([0, 1, -1, 10**9, 10**9 + 1, 2**63 - 1, -(2**63)]) | st.integers(0, 200)
REAL = st.none() | st.floats() | st.sampled_from([0.0, 1e6, 1e9, ABOVE_1E6, ABOVE_1E9])
QUANTITY = st.floats() | st.sampled_from([0.0, 1.0, 1e6, 1e9, ABOVE_1E9])
SPAN = st.fixed_dictionaries(
    {
        **dict.fromkeys(COUNTS, NUMBER),
        **dict.fromkeys(("cost_usd", "latency_ms", "ttft_ms"), REAL),
        "model": st.sampled_from(["", "m", "m" * 1025]),
        **dict.fromkeys(("cache_write_tokens", "cache_write_1h_tokens", "audio_prompt_tokens", "web_searches"), NUMBER),
        "prompt_tokens_include_cache": st.sampled_from([None, None, 0, 1]),
        "usage": st.dictionaries(st.sampled_from(["page", "second", "audio_cache_read", "prompt"]), QUANTITY),
        "status": st.sampled_from(["ok", "error", "nonsense"]),
        "attributes": st.fixed_dictionaries({"eval.score": REAL}),
    }
).map(lambda fields: span(**fields))


@given(st.lists(SPAN, max_size=6))
def test_validation_of_a_span_ignores_its_neighbours_and_changes_no_array(records: list[dict[str, Any]]) -> None:
    batch = span_batch(*records)
    before = repr(spans_of(batch))
    together = validate(batch)
    alone = [validate(span_batch(record)) for record in records]
    assert repr(spans_of(together.spans)) == repr([span for one in alone for span in spans_of(one.spans)])
    assert together.rejects == [
        Reject(row, reject.reason, reject.error) for row, one in enumerate(alone) for reject in one.rejects
    ]
    sums = {reason: sum(one.parts.get(reason, 0) for one in alone) for reason in reasons.PART}
    assert together.parts == {reason: count for reason, count in sums.items() if count}
    assert repr(spans_of(batch)) == before
