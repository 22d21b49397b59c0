"""What is fitted to data before or between training runs: anchors. Not here: training itself (engine)."""
