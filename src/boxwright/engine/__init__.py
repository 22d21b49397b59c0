"""How training runs: schedule, optimizer, averaging, checkpoints, resume. Knows no model by name."""
