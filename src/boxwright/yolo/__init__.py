"""YOLOv3-SPP and every YOLOv5 generation."""
