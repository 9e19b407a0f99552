"""Exports: what a provider says that was used and what it cost, by day and model, from its files.

- openai: answers of the Usage API for completions, and of the Costs API.
- anthropic: answers of the Usage and of the Cost API for organizations.
- csv: columns `day` and `model`, and any of `cost_usd`, `prompt_tokens`, `completion_tokens` and `requests`.

Days are those of UTC, of a CSV those of any zone. A JSON file holds one answer, a list of them, or one a line: the
pages of a longer one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from tokentrace.errors import UsageError

#: Amounts that are compared, in the order of the words about them. Costs are nano-USD.
MEASURED: Final = ("cost_nano_usd", "prompt_tokens", "completion_tokens", "requests")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an export. model: empty where it is not of a model. amounts: those of MEASURED that it has."""

    day: str
    model: str
    amounts: Mapping[str, int]


def read_export(provider: str, path: Path) -> list[Entry]:
    """Read a file of `openai`, `anthropic` or `csv`. Raises UsageError for one that is not."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from error
    if provider == "csv":
        return list(_csv(text, path))
    read = {"openai": _openai, "anthropic": _anthropic}[provider]
    try:
        documents = _documents(text)
        entries = [entry for document in documents for bucket in document["data"] for entry in read(bucket)]
        incomplete = bool(documents) and bool(documents[-1].get("has_more"))
    except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not an answer of {provider}'s usage or cost API ({why}).") from error
    if incomplete:
        raise UsageError(f"{path} is not whole: its last page says that there are more. Put all pages in the file.")
    if not entries:
        raise UsageError(f"{path} has no usage and no costs of {provider}.")
    return entries


def plain_name(model: str) -> str:
    """Return a model's name without the date of its release, which exports have and applications often leave out."""
    return re.sub(r"[-@](\d{4}-\d\d-\d\d|20\d{6})$", "", model.strip().lower())


def nano_usd(usd: Decimal) -> int:
    """Return an amount as nano-USD, rounded half to even."""
    return round(usd.scaleb(9))


def _documents(text: str) -> list[Any]:
    try:
        found = json.loads(text, parse_float=Decimal)
    except ValueError:
        return [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
    return found if isinstance(found, list) else [found]


def _openai(bucket: Any) -> Iterator[Entry]:
    day = f"{datetime.fromtimestamp(int(bucket['start_time']), UTC):%Y-%m-%d}"
    for result in bucket["results"]:
        if "amount" in result:
            if str(result["amount"]["currency"]).lower() != "usd":
                raise ValueError(f"a cost in {result['amount']['currency']}")
            # A line item is a model and a kind of token: `gpt-4o-2024-08-06, input`.
            model = (result.get("line_item") or "").partition(",")[0]
            yield Entry(day, model, {"cost_nano_usd": nano_usd(Decimal(result["amount"]["value"]))})
        else:
            yield Entry(
                day,
                result.get("model") or "",
                {
                    "prompt_tokens": int(result["input_tokens"]),
                    "completion_tokens": int(result["output_tokens"]),
                    "requests": int(result["num_model_requests"]),
                },
            )


def _anthropic(bucket: Any) -> Iterator[Entry]:
    day = f"{datetime.fromisoformat(bucket['starting_at']).astimezone(UTC):%Y-%m-%d}"
    for result in bucket["results"]:
        model = result.get("model") or ""
        if "amount" in result:
            if result["currency"] != "USD":
                raise ValueError(f"a cost in {result['currency']}")
            # Amounts are in cents.
            yield Entry(day, model, {"cost_nano_usd": nano_usd(Decimal(str(result["amount"])) / 100)})
            continue
        created = result.get("cache_creation") or {}
        prompt = [result["uncached_input_tokens"], result["cache_read_input_tokens"], *created.values()]
        yield Entry(
            day, model, {"prompt_tokens": sum(map(int, prompt)), "completion_tokens": int(result["output_tokens"])}
        )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        raise ValueError(f"the day {text!r} is not a date such as 2026-10-31") from None


def _amount(text: str) -> int:
    try:
        return nano_usd(Decimal(text))
    except (ValueError, ArithmeticError):
        raise ValueError(f"the cost {text!r} is not a number such as 12.50") from None


def _csv(text: str, path: Path) -> Iterator[Entry]:
    reader = csv.DictReader(io.StringIO(text))
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    known: dict[str, Callable[[str], int]] = {
        "cost_usd": _amount,
        **dict.fromkeys(MEASURED[1:], int),
    }
    if not {"day", "model"} <= set(names) or not set(known) & set(names):
        columns = ", ".join(known)
        raise UsageError(f"{path} needs the columns day and model, and any of {columns}; it has {', '.join(names)}.")
    for row in reader:
        try:
            day = _day(row["day"])
            amounts = {
                "cost_nano_usd" if name == "cost_usd" else name: read(row[name])
                for name, read in known.items()
                if (row.get(name) or "").strip()
            }
        except (ValueError, InvalidOperation, AttributeError) as error:
            raise UsageError(f"{path}, line {reader.line_num}: {error}.") from error
        yield Entry(day, row["model"] or "", amounts)
