"""Metrics for Prometheus: the table of all metrics, their values from a snapshot, and the Grafana dashboard."""
