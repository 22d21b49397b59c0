"""The synthetic world: drives with six cameras and five radars, and data sets written from them.

Read `catalog` (what exists and what it looks like), `world` (where it is and how it moves), `camera` and `render`
(pictures and boxes), `radar` (returns), then the writers: `nuscenes_root` and `yolo_set`. Everything is a pure function
of (seed, scene, frame).

Frames, all right-handed, metres: global; ego is x forward, y left, z up with the ground at z = 0; camera is x right, y
down, z forward. Transforms are named target_from_source.
"""
