"""A third system, as somebody else would add it: which quarter of a tiny image is bright. The core does not name it."""
