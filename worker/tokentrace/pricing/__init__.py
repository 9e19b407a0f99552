"""Pricing: the cost of every span in nano-USD, and the source of that cost.

A span's own `cost_usd` has precedence (reported), then the configured rates, then the table of genai-prices (computed,
or estimated where only the total is known). Without any of them the cost is 0 (unpriced). A model is looked up once;
the rest is array arithmetic.
"""

from __future__ import annotations

from tokentrace.pricing.pricer import SOURCE_SUMS, SOURCES, Priced, Pricer
from tokentrace.pricing.rates import MAX_CALL_USD, MAX_RATE_PER_1M, Rates

__all__ = ["MAX_CALL_USD", "MAX_RATE_PER_1M", "SOURCES", "SOURCE_SUMS", "Priced", "Pricer", "Rates"]
