"""Procedural street worlds: scenes of moving cuboid objects, sensors that look at them, data sets written from them.

Rooms: `catalog` (what exists), `world` (where it is and how it moves), `camera` (pinhole geometry), `shapes` and
`textures` (what it looks like), `render` (pixels and 2-D boxes), `write` (files). Everything is a pure function of
(seed, scene, frame).

The world of camera and radar builds on them: `fusion_catalog` (kinds and sensors), `road` and `fusion_traffic` (where
things move), `fusion_world` (scenes), `fusion_render` (pictures), `radar_sim` (radar returns), `nuscenes_tables`,
`nuscenes_scene` and `nuscenes_write` (files).

Frames, all right-handed, metres: global and ego are x forward (along the street), y left, z up with the ground at
z = 0; camera is x right, y down, z forward. Transforms are named target_from_source.
"""
