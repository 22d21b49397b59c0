"""checkpoints room."""
