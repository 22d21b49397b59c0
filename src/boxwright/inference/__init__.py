"""Images, folders, videos and cameras to boxes: `load` and `Detector`. What is not here: training and metrics."""
