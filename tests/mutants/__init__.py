"""Changed formulae, each of which a test must notice: `python -m tests.mutants`."""
