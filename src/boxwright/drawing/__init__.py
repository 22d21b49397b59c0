"""Drawing: text, boxes, 3-D boxes, the view from above, contact sheets."""
