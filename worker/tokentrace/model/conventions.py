"""Conventions: what the attributes of OpenTelemetry spans mean for a call of a model, declared once.

The table has the GenAI semantic conventions with their former names, OpenInference and OpenLLMetry. Whatever reads such
spans takes the names from here, and so does the documentation. `model.otel_calls` reads attributes by it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

#: Type of a value: a text, a whole number, seconds, or a score from 0 to 1.
Kind = Literal["text", "count", "seconds", "score"]


class Meaning(NamedTuple):
    """A field of the span. keys: attributes that give it, the preferred one first. doc: its description."""

    field: str
    kind: Kind
    keys: tuple[str, ...]
    doc: str


#: Every field that attributes give. Fields of units are named as in `model.units`.
MEANINGS: Final = (
    Meaning("model", "text", (
        "gen_ai.request.model", "llm.request.model_name", "llm.request.model", "llm.model_name", "embedding.model_name",
        "gen_ai.response.model", "llm.response.model_name", "llm.response.model",
    ), "Model, as it was requested or else as it answered."),
    Meaning("provider", "text", (
        "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "llm.vendor",
    ), "Who bills the call."),
    Meaning("prompt_tokens", "count", (
        "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "llm.usage.prompt_tokens",
    ), "Prompt tokens, cached ones included."),
    Meaning("completion_tokens", "count", (
        "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion",
        "llm.usage.completion_tokens",
    ), "Completion tokens, reasoning included."),
    Meaning("total_tokens", "count", (
        "gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total",
    ), "All tokens; what one of the two counts lacks follows from it."),
    Meaning("cached_prompt_tokens", "count", (
        "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read", "llm.usage.cache_read_input_tokens",
    ), "Prompt tokens that were read from a cache."),
    Meaning("cache_write_tokens", "count", (
        "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens", "llm.token_count.prompt_details.cache_write",
        "llm.usage.cache_creation_input_tokens",
    ), "Prompt tokens that were written to a cache."),
    Meaning("reasoning_tokens", "count", (
        "gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens", "llm.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ), "Completion tokens that were spent on reasoning."),
    Meaning("audio_prompt_tokens", "count", (
        "gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio",
    ), "Prompt tokens that were audio."),
    Meaning("audio_completion_tokens", "count", (
        "gen_ai.usage.audio.output_tokens", "llm.token_count.completion_details.audio",
    ), "Completion tokens that were audio."),
    Meaning("image_prompt_tokens", "count", ("gen_ai.usage.image.input_tokens",), "Prompt tokens that were images."),
    Meaning("image_completion_tokens", "count", (
        "gen_ai.usage.image.output_tokens",
    ), "Completion tokens that were images."),
    Meaning("text_prompt", "count", ("gen_ai.usage.text.input_tokens",), "Prompt tokens that were text."),
    Meaning("text_completion", "count", ("gen_ai.usage.text.output_tokens",), "Completion tokens that were text."),
    Meaning("video_prompt", "count", ("gen_ai.usage.video.input_tokens",), "Prompt tokens that were video."),
    Meaning("service_tier", "text", (
        "openai.response.service_tier", "gen_ai.openai.response.service_tier",
    ), "Tier that the answer names, on which the price depends."),
    Meaning("ttft", "seconds", (
        "gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token",
    ), "Time to the first token, in seconds."),
    Meaning("eval_score", "score", ("gen_ai.evaluation.score.value", "eval.score"), "Quality score, from 0 to 1."),
    Meaning("error", "text", ("error.type",), "Kind of the error; a span that has one has failed."),
)  # fmt: skip

#: Attribute with the parameters of a call as JSON, which has the model of a call that has failed without naming it.
PARAMETERS_KEY: Final = "llm.invocation_parameters"

#: Attributes that say what a span is; the first that is there decides.
OPERATION_KEYS: Final = (
    "gen_ai.operation.name",
    "llm.request.type",
    "openinference.span.kind",
    "traceloop.span.kind",
)
#: Operations that a provider bills, in small letters. Any other wraps such calls, or is none: an agent, a tool, a
#: workflow, a retrieval. Its usage, if it has any, repeats that of the calls inside it.
CALLS: Final = frozenset(
    {"chat", "text_completion", "completion", "generate_content", "embeddings", "embedding", "llm", "rerank",
     "speech", "transcription", "image_generation"}
)  # fmt: skip
#: Fields of which a span without an operation needs one, besides a model and a provider, to be a call.
USAGE_FIELDS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")

#: Event of a span that has a score -> the attribute with the score.
SCORE_EVENT: Final = ("gen_ai.evaluation.result", "gen_ai.evaluation.score.value")
#: Event of a span that is the first token of a streamed answer.
FIRST_TOKEN_EVENT: Final = "First Token Stream Event"
#: Parts of an error's kind, in small letters, that make it a time-out.
TIMEOUTS: Final = ("timeout", "timed_out", "deadline")

#: A span that contains none of these is not read further, and is not a call: keys that can make it one begin so.
MARKS: Final = ("gen_ai.", "llm.request.type", "openinference.span.kind")
