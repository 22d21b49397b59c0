"""nuScenes roots: tables, an index of flat arrays, poses, radar sweeps. What training makes of them is in `fusion`."""
