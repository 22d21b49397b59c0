"""Pixels to raw outputs. What is not here: losses, decoding to Detections, reading weight files."""
