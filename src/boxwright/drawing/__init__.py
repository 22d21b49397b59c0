"""One kit for pictures: canvas, text, boxes, boxes3d, view from above, contact sheets. All images are BGR."""
