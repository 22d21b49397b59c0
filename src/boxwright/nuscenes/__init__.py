"""nuScenes: tables, index, radar, poses, splits, metric and submission."""
