"""Metrics that more than one system uses."""
