"""A procedural street world: scenes of moving cuboid objects, cameras that look at them, data sets written from them.

Rooms: `catalog` (what exists), `world` (where it is and how it moves), `camera` (pinhole geometry), `shapes` and
`textures` (what it looks like), `render` (pixels and 2-D boxes), `write` (files). Everything is a pure function of
(seed, scene, frame).

Frames, all right-handed, metres: global and ego are x forward (along the street), y left, z up with the ground at
z = 0; camera is x right, y down, z forward. Transforms are named target_from_source.
"""
