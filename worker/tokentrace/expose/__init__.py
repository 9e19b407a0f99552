"""Expose: what Prometheus sees. Reads immutable snapshots only, on threads of its own."""

from __future__ import annotations

from .alerts import alert_metrics
from .continuity import Address
from .health import health_metrics
from .http import HealthReport, HttpServer, HttpSettings
from .render import Format, Renderer, Scrape

__all__ = [
    "Address",
    "Format",
    "HealthReport",
    "HttpServer",
    "HttpSettings",
    "Renderer",
    "Scrape",
    "alert_metrics",
    "health_metrics",
]
