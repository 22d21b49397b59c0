"""nuScenes roots: tables, an index of flat arrays, poses, radar sweeps. What becomes of them in training is in `fusion`."""
