"""Metrics, the evaluation protocol and the report."""
