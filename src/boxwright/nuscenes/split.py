"""The images of a split with what is known of them: annotations, calibration and radar."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.nuscenes.annotations import published_intrinsics
from boxwright.nuscenes.index import NuscenesIndex
from boxwright.nuscenes.layout import BIKE_RACK, CHANNELS, FIRST_RADAR, RADARS_OF_CAMERA
from boxwright.nuscenes.missing import absent
from boxwright.nuscenes.poses import inverses, transforms
from boxwright.nuscenes.radar import accumulate, read_radar
from boxwright.nuscenes.records import ImageAnnotations, ImageRecord
from boxwright.nuscenes.splits import scenes_of_split
from boxwright.nuscenes.structures import CAMERAS, RADAR_FIELDS, GlobalBoxes

Array = NDArray[np.float64]


class NuscenesSplit:
    """A split of a version; a FusionSource. Images stand by sample, and by sensor id within a sample.

    Args:
        index: the version.
        split: one of `splits.SPLITS`, or "all" for every scene.
        num_sweeps: radar sweeps of each radar to gather; 0 reads no radar.
        scenes: of the split, take only these; None: all.

    Attributes:
        scene_names: in the order of their samples.
        sample_rows, image_rows: rows of the split's key frames and images in the arrays of the index.

    Raises:
        UserError: the version has no scene of the split, or a file is not there and the index does not allow that.
    """

    def __init__(
        self, index: NuscenesIndex, split: str, num_sweeps: int = 1, scenes: Sequence[str] | None = None
    ) -> None:
        if num_sweeps < 0:
            raise UserError(f"radar sweeps are counted from 0, not {num_sweeps}")
        self.index, self.split, self.num_sweeps = index, split, num_sweeps
        names = scenes_of_split(split, index.scenes, index.folder)
        self.scene_names = [name for name in names if scenes is None or name in scenes]
        wanted = np.isin(index.scenes, self.scene_names)
        rows = index.arrays["samples"]
        self.sample_rows = np.flatnonzero(wanted[rows["scene"]])
        images = np.flatnonzero(np.isin(index.arrays["images"]["sample"], self.sample_rows))
        lost = absent(index, "image", images)
        if len(lost) and not index.allow_missing:
            raise self._missing(index.image_name(int(lost[0])), len(lost), "images")
        self.image_rows = np.setdiff1d(images, lost)
        sweeps = self._sweeps_used()
        gone = absent(index, "radar", sweeps)
        if len(gone) and not index.allow_missing:
            raise self._missing(index.radar_name(int(gone[0])), len(gone), "radar sweeps")
        self._gone = frozenset(gone.tolist())
        self._position = np.full(len(rows), -1, np.int64)
        self._position[self.sample_rows] = np.arange(len(self.sample_rows))

    def _missing(self, first: str, count: int, kind: str) -> UserError:
        more = f", one of {count} {kind} of {self.split} that are" if count > 1 else ""
        return UserError(
            f"{self.index.root / first} is missing{more}; allow missing files (--allow-missing) to go on without"
        )

    def _sweeps_used(self) -> NDArray[np.int64]:
        """Positions of all radar sweeps that the split reads."""
        found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        at = self.index.arrays["samples"]["radars"][self.sample_rows].reshape(-1)
        for _ in range(self.num_sweeps):
            at = at[at >= 0]
            found.append(at.astype(np.int64))
            at = self.index.arrays["radars"]["prev"][at]
        return np.unique(np.concatenate(found))

    def __len__(self) -> int:
        return len(self.image_rows)

    @cached_property
    def sample_tokens(self) -> list[str]:
        """Tokens of the key frames, scene by scene in order of time."""
        return [token.decode() for token in self.index.arrays["sample_tokens"][self.sample_rows]]

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) ids that the published conversion gives the images: from 1, in the order of visits."""
        images = self.index.arrays["images"][self.image_rows]
        ids = np.empty(len(images), np.int64)
        ids[np.lexsort((images["row"], images["sample"]))] = np.arange(1, len(images) + 1)
        return ids

    @cached_property
    def has_annotations(self) -> bool:
        """Whether any object of the split is annotated."""
        return bool(np.isin(self.index.arrays["annotations"]["sample"], self.sample_rows).any())

    def scene_of_sample(self, sample: int) -> str:
        """Name of the scene of a key frame."""
        return self.index.scenes[int(self.index.arrays["samples"]["scene"][self.sample_rows[sample]])]

    def global_from_ego(self, sample: int) -> Array:
        """(4, 4) pose of the car at a key frame."""
        pose = self.index.arrays["poses"][self.index.arrays["samples"]["pose"][self.sample_rows[sample]]]
        return transforms(pose["translation"], pose["rotation"])

    def images_of_sample(self, sample: int) -> list[int]:
        """Positions of the images of a key frame, by sensor id."""
        low, high = np.searchsorted(
            self.index.arrays["images"]["sample"][self.image_rows], self.sample_rows[sample] + np.arange(2)
        )
        return list(range(low, high))

    def samples_of_scene(self, name: str) -> list[int]:
        """Positions in `sample_tokens` of a scene's key frames.

        Raises:
            UserError: the split has no such scene; the sentence names some that it has.
        """
        if name not in self.scene_names:
            some = ", ".join(self.scene_names[:10]) + (", ..." if len(self.scene_names) > 10 else "")
            raise UserError(f"{self.index.folder} has no scene {name} in {self.split}; there are {some}")
        scene = self.index.scenes.index(name)
        return np.flatnonzero(self.index.arrays["samples"]["scene"][self.sample_rows] == scene).tolist()

    def record(self, position: int) -> ImageRecord:
        """What is known of an image; see FusionSource."""
        number = int(self.image_rows[position])
        image = self.index.arrays["images"][number]
        calib = np.zeros((3, 4))
        calib[:, :3] = published_intrinsics(self.index.arrays["calibrations"]["intrinsic"][image["calibration"]])
        return ImageRecord(
            path=self.index.root / self.index.image_name(number),
            width=int(image["width"]),
            height=int(image["height"]),
            sensor=int(image["sensor"]),
            sample=int(self._position[image["sample"]]),
            calib=calib,
            global_from_cam=np.array(image["global_from_cam"]),
            annotations=self._annotations(number),
        )

    def _annotations(self, image: int) -> ImageAnnotations:
        arrays = self.index.arrays
        low, high = arrays["seen_offsets"][image : image + 2]
        seen = np.array(arrays["seen"][low:high])
        seen = seen[~seen["hidden"]]
        rows = arrays["annotations"][seen["annotation"]]
        return ImageAnnotations(
            labels=rows["label"].astype(np.int64),
            boxes_xywh=seen["box"],
            dims=rows["size"][:, [2, 0, 1]],
            locations=seen["location"],
            depths=seen["location"][:, 2],
            rotation_y=seen["rotation_y"],
            alpha=seen["alpha"],
            amodel_centers=seen["amodel_center"],
            attributes=rows["attribute"].astype(np.int64),
            velocity_cam=seen["velocity"],
            is_crowd=np.zeros(len(seen), np.bool_),
        )

    def radar(self, position: int) -> Array:
        """(18, N) gathered radar points in the camera frame; see FusionSource.

        Raises:
            UserError: a sweep cannot be read, is cut off, or has other fields.
        """
        sweeps = self._sweeps_of(position)
        if not sweeps:
            return np.zeros((len(RADAR_FIELDS), 0))
        arrays = self.index.arrays
        rows = arrays["radars"][sweeps]
        pose, calibration = arrays["poses"][rows["pose"]], arrays["calibrations"][rows["calibration"]]
        global_from_radar = transforms(pose["translation"], pose["rotation"]) @ transforms(
            calibration["translation"], calibration["rotation"]
        )
        cam_from_global = inverses(arrays["images"][int(self.image_rows[position])]["global_from_cam"])
        points = [read_radar(self.index.root / self.index.radar_name(sweep)) for sweep in sweeps]
        return accumulate(points, cam_from_global @ global_from_radar)

    def _sweeps_of(self, position: int) -> list[int]:
        """Radar sweeps of an image: radar by radar, newest first; those whose files are not there are left out."""
        image = self.index.arrays["images"][int(self.image_rows[position])]
        key = self.index.arrays["samples"][image["sample"]]["radars"]
        prev = self.index.arrays["radars"]["prev"]
        found: list[int] = []
        for radar in RADARS_OF_CAMERA[CAMERAS[image["sensor"] - 1]]:
            at = int(key[CHANNELS.index(radar) - FIRST_RADAR])
            for _ in range(self.num_sweeps):
                if at < 0:
                    break
                if at not in self._gone:
                    found.append(at)
                at = int(prev[at])
        return found

    def ground_truth(self) -> GlobalBoxes:
        """All annotations of the ten classes, as the metric takes them."""
        rows, samples = self._annotated()
        some = rows["label"] != BIKE_RACK
        rows = rows[some]
        return GlobalBoxes(
            samples=samples[some],
            labels=rows["label"].astype(np.int64),
            centers=rows["center"],
            sizes=rows["size"],
            rotations=rows["rotation"],
            velocities=rows["velocity"][:, :2],
            attributes=rows["attribute"].astype(np.int64),
            scores=np.full(len(rows), -1.0),
            num_points=rows["points"].astype(np.int64),
        )

    def bike_racks(self) -> tuple[NDArray[np.int64], Array, Array, Array]:
        """Bicycle racks: sample positions (R,), centers (R, 3), sizes (R, 3) w, l, h, rotations (R, 4) w, x, y, z."""
        rows, samples = self._annotated()
        some = rows["label"] == BIKE_RACK
        return samples[some], rows["center"][some], rows["size"][some], rows["rotation"][some]

    def _annotated(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        rows = self.index.arrays["annotations"]
        position = self._position[rows["sample"]]
        some = np.flatnonzero(position >= 0)
        return np.array(rows[some]), position[some]

    def ego_positions(self) -> Array:
        """(S, 3) metres, global frame: where the car was at each key frame, by its lidar's pose."""
        poses = self.index.arrays["samples"]["pose"][self.sample_rows]
        made = np.array(self.index.arrays["poses"]["translation"][poses])
        made[poses < 0] = np.nan
        return made
