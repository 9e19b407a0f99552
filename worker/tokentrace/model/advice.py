"""Advice: what a publisher changes, for each reason for which a span is rejected, counted in part, or repaired."""

from __future__ import annotations

from typing import Final

from tokentrace.model.spans import BELOW_PARTS, EXCLUDES_CACHE

#: Kinds of repairs, the reasons of `tokentrace_spans_repaired_total`.
EXCLUDES_CACHE_KIND: Final = EXCLUDES_CACHE.removeprefix("repaired_")
BELOW_PARTS_KIND: Final = BELOW_PARTS.removeprefix("repaired_")
#: Kind of a span that was counted at another time than its own.
CLAMPED_TIME: Final = "clamped"
#: Kind of a span whose prompt tokens are all of its total.
ESTIMATED_SPLIT: Final = "estimated"

#: Reason, repair or kind -> what to change.
ADVICE: Final[dict[str, str]] = {
    "tombstone": "Publish no messages without a value.",
    "other_group": "Nothing is to be changed.",
    "other_event": "Nothing is to be changed, unless the record is a span: then it needs a field `model`.",
    "empty": "Publish no empty messages.",
    "unknown_framing": "Write a framing that docs/publishing.md has, or set kafka.framing to that of the topic.",
    "unknown_schema_id": "Register the schema with the registry that the workers ask, or correct the id.",
    "unknown_fingerprint": "Put the writer's .avsc file into a folder of schemas.paths, then replay the dead letters.",
    "schema_unusable": "Correct the schema's field, or leave it out.",
    "malformed": "Write the message with the schema that its header names.",
    "unknown_field": "Leave the field out, or put its value into `attributes`.",
    "invalid_utf8": "Write model, provider and caller as UTF-8.",
    "type_mismatch": "Write the field with a type that it takes.",
    "unknown_status": "Write `ok`, `error` or `timeout`.",
    "model_missing": "Write the name of the model into `model`.",
    "label_too_long": "Write names into model, provider and caller; longer text belongs into `attributes`.",
    "no_token_count": "Write prompt_tokens and completion_tokens, other units in `usage`, or cost_usd.",
    "negative_tokens": "Leave a count out where it is not known.",
    "tokens_out_of_range": "Correct the count, or raise limits.max_tokens.",
    "cost_invalid": "Leave cost_usd out where it is not known.",
    "cost_out_of_range": "Write US dollars, not cents or nano-dollars, or raise limits.max_cost_usd.",
    "latency_invalid": "Leave latency_ms and ttft_ms out where they are not known.",
    "latency_out_of_range": "Write milliseconds, not microseconds or nanoseconds, or raise limits.max_latency.",
    "eval_score_invalid": "Write a score from 0 to 1.",
    "reasoning_tokens_invalid": "Count reasoning tokens in completion_tokens too.",
    EXCLUDES_CACHE_KIND: "Set prompt_tokens_include_cache to false, or count cached tokens in prompt_tokens too.",
    BELOW_PARTS_KIND: "Count the parts in the whole too.",
    ESTIMATED_SPLIT: "Write prompt_tokens and completion_tokens, since their prices differ.",
    CLAMPED_TIME: "Write microseconds since 1970, or declare the unit in the schema (timestamp-millis).",
}
