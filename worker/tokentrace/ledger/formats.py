"""Formats of a bill: JSON, CSV and Parquet. Amounts stay exact: integers of nano-USD, and USD with nine decimals."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from tokentrace.errors import UsageError
from tokentrace.ledger.query import Bill, Labels

NANO: Final = Decimal(1).scaleb(-9)
#: Sums that every row has.
_NOTHING: Final = {"spans": 0, "cost_nano_usd": 0}
Row = tuple[Labels, Mapping[str, int]]


def usd(nano_usd: int) -> str:
    """Return an amount as exact decimal text."""
    return f"{Decimal(nano_usd).scaleb(-9).quantize(NANO):f}"


def columns_of(bill: Bill) -> list[str]:
    """Return the sums of a bill: cost and spans, and every unit that was used."""
    used = [name for name, number in bill.total.items() if number and name not in ("cost_nano_usd", "spans")]
    return ["spans", "cost_nano_usd", *used]


def as_json(bill: Bill, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the bill as a JSON object."""
    return {
        "period": {
            "from": bill.period.begins.isoformat(),
            "to": bill.period.ends.isoformat(),
            "zone": bill.period.zone.key,
        },
        "total": {**_NOTHING, **bill.total},
        "rows": [{**dict(zip(bill.by, labels, strict=True)), **_NOTHING, **sums} for labels, sums in rows],
        "booked_after_closing": dict(bill.late),
        "corrections_nano_usd": bill.corrections,
        "ledger_until": datetime.fromtimestamp(bill.committed_at_us / 1e6, UTC).isoformat(),
        "gaps": [gap.as_json() for gap in bill.gaps],
    }


def as_csv(bill: Bill, rows: Sequence[Row]) -> str:
    """Return the rows as CSV (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    columns = columns_of(bill)
    writer.writerow([*bill.by, *columns, "cost_usd"])
    for labels, sums in rows:
        numbers = [sums.get(name, 0) for name in columns]
        writer.writerow([*map(inert, labels), *numbers, usd(sums.get("cost_nano_usd", 0))])
    return out.getvalue()


def inert(text: str) -> str:
    """Return a text that spreadsheets do not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def write_parquet(bill: Bill, rows: Sequence[Row], path: Path) -> None:
    """Write the rows as Parquet. Raises UsageError where the extra is missing."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UsageError("Parquet requires pyarrow: pip install 'tokentrace[parquet]'") from None
    columns = columns_of(bill)
    arrays = {name: pa.array([labels[at] for labels, _ in rows], pa.string()) for at, name in enumerate(bill.by)}
    arrays |= {name: pa.array([sums.get(name, 0) for _, sums in rows], pa.int64()) for name in columns}
    amounts = [Decimal(sums.get("cost_nano_usd", 0)).scaleb(-9) for _, sums in rows]
    arrays["cost_usd"] = pa.array(amounts, pa.decimal128(38, 9))
    parquet.write_table(pa.table(arrays), path)
