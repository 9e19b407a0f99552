"""OTLP: spans of OpenTelemetry as its Collector writes them to Kafka, and the calls of models among them."""
