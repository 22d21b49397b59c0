"""Boxwright trains, evaluates and ships three published detectors from one readable code base."""

__version__ = "0.1.0"
