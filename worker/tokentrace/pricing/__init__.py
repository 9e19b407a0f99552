"""Pricing: what each span cost, in nano-USD, and where that figure comes from.

The span's own `cost_usd` counts first (reported); else the configured rates, else the table of genai-prices
(computed); else nothing is known and the cost is 0 (unpriced). A model is looked up once; then it is arithmetic.
"""

from __future__ import annotations

from tokentrace.pricing.pricer import SOURCES, Priced, Pricer
from tokentrace.pricing.rates import MAX_RATE_PER_1M, Rates

__all__ = ["MAX_RATE_PER_1M", "SOURCES", "Priced", "Pricer", "Rates"]
