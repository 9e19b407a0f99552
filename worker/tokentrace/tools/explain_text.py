"""Text and JSON of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tokentrace.model.text import utc_text
from tokentrace.tools.explain import IGNORED, CountedGroup, Explanation

_PATHS: Final = {"columnar": ", decoded in columns", "fastavro": ", decoded one message at a time"}


def as_json(found: Explanation) -> dict[str, Any]:
    """Return an explanation as a JSON object; the cost is in nano-dollars."""
    return {
        "counted": found.counted,
        "framing": found.framing or None,
        "schema": found.schema or None,
        "decoded": found.path or None,
        "fields": [
            {
                "name": one.view.name,
                "type": one.view.type_,
                "value": one.view.value,
                "fills": one.fills or None,
                "wrong": one.wrong,
                "problem": one.view.problem or None,
            }
            for one in found.fields
        ],
        "missing": found.missing,
        "reason": found.reason or None,
        "error": found.error or None,
        "advice": found.advice or None,
        "groups": [
            {
                "labels": group.labels,
                "minute": group.minute_s,
                "spans": group.spans,
                "usage": group.usage,
                "cost_nano_usd": group.nano_usd,
                "cost_sources": group.cost_sources,
                "price": group.price or None,
            }
            for group in found.groups
        ],
        "corrected": [{"kind": one.kind, "why": one.why, "advice": one.advice} for one in found.findings],
    }


def lines_of(found: Explanation) -> Sequence[str]:
    """Return an explanation as text, line by line."""
    lines = [f"Framing    {found.framing or 'not found'}"]
    if found.schema:
        lines.append(f"Schema     {found.schema}{_PATHS.get(found.path, '')}")
    absent = [one.view.name for one in found.fields if one.view.value is None and not one.wrong]
    for one in found.fields:
        if one.view.name in absent:
            continue
        fills = one.fills or "not read"
        value = one.view.problem or _short(one.view.value)
        mark = "  <-- here" if one.wrong else ""
        lines.append(f"  {one.view.name or '(end)':<26} {value:<34} {one.view.type_ or 'no field'}, {fills}{mark}")
    if absent:
        lines.append(f"Null       {', '.join(absent)}")
    if found.missing and found.fields:
        lines.append(f"No field   {', '.join(found.missing)}")
    for group in found.groups:
        lines += _counted_lines(group)
    if not found.counted:
        verdict = "ignored" if found.reason == IGNORED else f"rejected ({found.reason})"
        lines.append(f"Verdict    {verdict}: {found.error}")
        if found.advice:
            lines.append(f"Change     {found.advice}")
    lines += [f"Corrected  {finding.kind}: {finding.why} {finding.advice}" for finding in found.findings]
    return lines


def _counted_lines(group: CountedGroup) -> Sequence[str]:
    labels = ", ".join(f"{name} {value!r}" for name, value in group.labels.items() if value)
    spans = "counted" if group.spans == 1 else f"{group.spans} spans counted"
    usage = ", ".join(f"{unit} {quantity:,}" for unit, quantity in group.usage.items())
    cost = f"{group.nano_usd // 10**9}.{group.nano_usd % 10**9:09d} USD, {' and '.join(group.cost_sources)}"
    return (
        f"Verdict    {spans} at {utc_text(group.minute_s)[:16]}Z as {labels}",
        f"Usage      {usage or 'none'}",
        f"Cost       {cost}{f' with {group.price}' if group.price else ''}",
    )


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
