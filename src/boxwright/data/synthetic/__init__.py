"""data synthetic room."""
