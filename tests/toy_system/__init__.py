"""A toy system, written as an outside contributor would add one: find the bright quarter of a tiny image."""
