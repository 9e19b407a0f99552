"""Exposition: serves immutable snapshots to Prometheus, on threads of its own."""

from __future__ import annotations

from tokentrace.exposition.alert_metrics import collect_alert_metrics
from tokentrace.exposition.budget_metrics import collect_budget_metrics
from tokentrace.exposition.http import HealthReport, HttpServer, HttpSettings, TlsSettings, Token, Tokens
from tokentrace.exposition.ledger_metrics import collect_ledger_metrics, scrape_ledger
from tokentrace.exposition.render import Renderer, Scrape
from tokentrace.exposition.text import Format
from tokentrace.exposition.worker_metrics import collect_worker_metrics
from tokentrace.exposition.zero_init import ClientAddress

__all__ = [
    "ClientAddress",
    "Format",
    "HealthReport",
    "HttpServer",
    "HttpSettings",
    "Renderer",
    "Scrape",
    "TlsSettings",
    "Token",
    "Tokens",
    "collect_alert_metrics",
    "collect_budget_metrics",
    "collect_ledger_metrics",
    "collect_worker_metrics",
    "scrape_ledger",
]
