"""The verbs of the command line for YOLO models."""
