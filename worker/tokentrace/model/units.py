"""Units: everything that a provider bills, declared once, each with what it is part of.

A unit's quantity includes those of its parts: prompt tokens include the tokens that were read from a cache, and those
include the ones that were audio. A part's price replaces that of its whole. `UNITS` has every unit that genai-prices
knows; a test compares the two, so that a new release of it cannot add one unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tokentrace.model.reasons import MAX_TOKENS

#: Most calls, searches and pages of one span. They cost up to 10,000 times as much as a token.
MAX_EVENTS: Final = 10**6
#: Columns hold seconds as milliseconds.
MILLI: Final = 1000


#: Last word of a price's name in genai-prices -> the quantity that it is for.
_PER: Final = {
    "mtok": 10**6, "mchars": 10**6, "gpixels": 10**9, "kcount": 1000, "kpages": 1000, "hours": 3600,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit.

    name: the value of the label `unit`, and the unit's key in a span's `usage`.
    kind: what sets it apart from others. A unit whose kind is a proper subset of it is a whole of it.
    usage, price: the names of the unit and of its price in genai-prices.
    field: the span's field of its own, empty where the unit is only in `usage`.
    scale: columns hold the quantity times this. most: largest quantity of one span, in the columns' unit.
    """

    name: str
    kind: frozenset[str]
    usage: str
    price: str
    field: str = ""
    scale: int = 1
    most: int = MAX_TOKENS

    @property
    def is_token(self) -> bool:
        """True for a kind of prompt or completion tokens."""
        return not self.kind.isdisjoint(("prompt", "completion"))

    @property
    def per(self) -> int:
        """Quantity that its published price is for: a million tokens or characters, a thousand calls, an hour."""
        return _PER[self.price.rpartition("_")[2]]

    @property
    def column(self) -> str:
        """Name of the column that holds the unit: the span's field, else the unit's name."""
        return self.field or self.name


_MODALITIES: Final = ("text", "audio", "image", "video")
_INPUT_KINDS: Final = ("cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "tool")
_OUTPUT_KINDS: Final = ("reasoning", "citation")

#: Units with a field of their own in the span, which are the common ones.
_FIELDS: Final = {
    "prompt": "prompt_tokens",
    "completion": "completion_tokens",
    "cache_read": "cached_prompt_tokens",
    "cache_write": "cache_write_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "reasoning": "reasoning_tokens",
    "audio_prompt": "audio_prompt_tokens",
    "audio_completion": "audio_completion_tokens",
    "image_prompt": "image_prompt_tokens",
    "image_completion": "image_completion_tokens",
    "web_search": "web_searches",
}


def _tokens(direction: str, way: str, modality: str, detail: str) -> Unit:
    """direction: prompt or completion. way: input or output. modality, detail: empty for all of them."""
    name = "_".join(filter(None, (modality, detail or direction)))
    details = detail.removesuffix("_5m").removesuffix("_1h")
    kind = {direction, modality, detail, details} - {""}
    if detail.startswith("cache"):
        cache, kind_of_use = detail.split("_", 1)
        usage = "_".join(filter(None, (cache, modality, kind_of_use)))
    else:
        usage = "_".join(filter(None, (way, modality, detail)))
    return Unit(name, frozenset(kind), f"{usage}_tokens", f"{usage}_mtok", _FIELDS.get(name, ""))


def _token_units() -> Iterator[Unit]:
    for direction, way, details in (("prompt", "input", _INPUT_KINDS), ("completion", "output", _OUTPUT_KINDS)):
        for detail in ("", *details):
            yield _tokens(direction, way, "", detail)
        for modality in _MODALITIES:
            for detail in ("", *details):
                yield _tokens(direction, way, modality, detail)


def _other(name: str, kind: str, usage: str, price: str, *, scale: int = 1, most: int = MAX_TOKENS) -> Unit:
    return Unit(name, frozenset(kind.split()), usage, price, _FIELDS.get(name, ""), scale, most)


#: Every unit; a whole comes before its parts.
UNITS: Final[tuple[Unit, ...]] = (
    *_token_units(),
    _other("second", "second", "audio_seconds", "audio_hours", scale=MILLI),
    _other("prompt_second", "second in", "input_audio_seconds", "input_audio_hours", scale=MILLI),
    _other("completion_second", "second out", "output_audio_seconds", "output_audio_hours", scale=MILLI),
    _other("character", "character", "input_characters", "input_mchars"),
    _other("pixel", "pixel", "input_pixels", "input_gpixels"),
    _other("text_message", "message", "input_text_messages", "input_text_messages_kcount", most=MAX_EVENTS),
    _other("page", "page", "input_document_pages", "input_document_kpages", most=MAX_EVENTS),
    _other("annotated_page", "page annotated", "input_annotated_document_pages", "input_annotated_document_kpages",
           most=MAX_EVENTS),
    _other("rerank_search", "rerank", "rerank_searches", "rerank_searches_kcount", most=MAX_EVENTS),
    _other("web_search", "web", "web_searches", "web_searches_kcount", most=MAX_EVENTS),
    _other("social_search", "social", "social_searches", "social_searches_kcount", most=MAX_EVENTS),
    _other("storage_search", "storage", "storage_searches", "storage_searches_kcount", most=MAX_EVENTS),
    _other("code_execution", "code", "code_executions", "code_executions_kcount", most=MAX_EVENTS),
    _other("request", "request", "requests", "requests_kcount", most=MAX_EVENTS),
)  # fmt: skip

BY_NAME: Final = {unit.name: unit for unit in UNITS}
#: Unit -> the units that it is part of, in the order of UNITS.
WHOLES: Final = {unit.name: tuple(other.name for other in UNITS if other.kind < unit.kind) for unit in UNITS}
#: Unit -> its parts, and theirs.
PARTS: Final = {unit.name: tuple(other.name for other in UNITS if unit.kind < other.kind) for unit in UNITS}
