"""nuScenes: tables, index, radar, poses, splits, metric and submission.

`write_root` makes a root of plain arrays: `from boxwright.nuscenes import OwnBoxes, OwnCamera, OwnFrame, OwnRadar,
write_root`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.nuscenes.write import OwnBoxes, OwnCamera, OwnFrame, OwnRadar, write_root

__all__ = ["OwnBoxes", "OwnCamera", "OwnFrame", "OwnRadar", "write_root"]


def __getattr__(name: str) -> Any:
    """Import what writes a root where it is asked for: reading settings of this package needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from boxwright.nuscenes import write

    return getattr(write, name)
