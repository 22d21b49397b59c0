"""Settings: base classes, files, merging. Imports no torch."""
