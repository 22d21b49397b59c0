"""Audits: what the program promises of kills, faults, damage and full disks, tried many times.

The suite runs them with small counts (tests/integration/test_audits.py), `make audit` with those of docs/safety.md.
"""
