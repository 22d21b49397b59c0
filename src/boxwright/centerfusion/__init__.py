"""CenterFusion: 3-D boxes from camera and radar."""
