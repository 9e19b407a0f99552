"""Reject reasons: the stable words of `tokentrace_spans_rejected_total{reason}`.

A WHOLE reason rejects the message: it goes to the dead-letter topic, or is only counted (NOT_KEPT).
A PART reason drops only the field: the span is counted without it.
The words are a contract (dashboards, alerts and dead-letter consumers match them): add words, never rename one.
"""

from __future__ import annotations

from typing import Final

TOMBSTONE: Final = "tombstone"
OTHER_GROUP: Final = "other_group"
OTHER_EVENT: Final = "other_event"
#: Whole-message reasons without a dead letter: the message has nothing to count, or another group keeps it.
NOT_KEPT: Final = frozenset({TOMBSTONE, OTHER_GROUP, OTHER_EVENT})

#: Whole-message reasons and the sentence in the `tokentrace.error` header.
WHOLE: Final[dict[str, str]] = {
    TOMBSTONE: "The message has no value (a tombstone); there is nothing to count.",
    OTHER_GROUP: "A dead letter that another consumer group has replayed; that group counts it.",
    OTHER_EVENT: "The message holds another event than a span; its schema is a union of both.",
    "empty": "The message value is empty.",
    "unknown_framing": "The value has none of the known framings (Confluent, Apicurio, Avro single-object, AWS Glue).",
    "unknown_schema_id": "The schema registry has no schema with this id.",
    "unknown_fingerprint": "No schema file has this Avro fingerprint; add the writer's schema to schemas.paths.",
    "schema_unusable": "The writer schema cannot be resolved to a span.",
    "malformed": "The bytes are not a datum of their writer schema.",
    "unknown_field": "A message in JSON has a field that spans do not have.",
    "invalid_utf8": "A label field (model, provider or caller) is not valid UTF-8.",
    "type_mismatch": "A field holds a type that the span's field cannot take.",
    "unknown_status": "The status is none of ok, error, timeout.",
    "model_missing": "The span names no model.",
    "label_too_long": "A label field (model, provider or caller) is longer than 1024 bytes.",
    "no_token_count": "The call succeeded, and the span has neither a token count nor any other usage nor a cost.",
    "negative_tokens": "A token count or another quantity is negative, or not a number.",
    "tokens_out_of_range": "A token count is over limits.max_tokens, or another quantity over what one call can use.",
    "cost_invalid": "cost_usd is NaN, infinite or negative.",
    "cost_out_of_range": "cost_usd, or the computed cost, is over limits.max_cost_usd.",
    "latency_invalid": "latency_ms or ttft_ms is NaN, infinite or negative.",
    "latency_out_of_range": "latency_ms or ttft_ms is over limits.max_latency.",
}

#: Part reasons: the span is counted without that part.
PART: Final[dict[str, str]] = {
    "eval_score_invalid": "attributes['eval.score'] is not a number in [0, 1]; the span is counted without it.",
    "reasoning_tokens_invalid": "reasoning_tokens is larger than completion_tokens; counted without it.",
}

#: Limit of a label value: longer ones would inflate every scrape.
MAX_LABEL_BYTES: Final = 1024
#: Highest limits of one span. They keep the arithmetic of one span within int64; sums have no limit.
MAX_TOKENS: Final = 10**9
MAX_COST_USD: Final = 1e6
MAX_LATENCY_MS: Final = 1e9
