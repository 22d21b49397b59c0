"""losses room."""
