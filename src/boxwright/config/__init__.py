"""Typed settings of each verb: the schema, and the one place where files and flags are merged. Imports no torch."""
