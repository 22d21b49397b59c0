"""Detections to metrics: the published YOLOv5 metric, the COCO metric, the confusion matrix, and one loop over them.

What is not here: drawing (reporting), files and printing (jobs/val.py).
"""
