"""Hyper-parameter search on Optuna."""
