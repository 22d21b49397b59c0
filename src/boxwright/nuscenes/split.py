"""The images of a split with what is known of them (annotations, calibration, radar), and which scenes a split has.

The lists of scenes are facts of the data set (700 / 150 / 150 scenes, and two halves of train for the tracking
challenge); a rule divides scenes that are in no published list.
"""

import os
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from boxwright.data.files import file_errors
from boxwright.data.identity import describe_images
from boxwright.errors import UserError
from boxwright.nuscenes.geometry import inverses, published_intrinsics, transforms
from boxwright.nuscenes.index import NuscenesIndex, absent
from boxwright.nuscenes.radar import DEVKIT, accumulate, read_radar
from boxwright.nuscenes.settings import RadarReading
from boxwright.nuscenes.structures import (
    BIKE_RACK,
    CAMERAS,
    CHANNELS,
    FIRST_RADAR,
    RADARS_OF_CAMERA,
    GlobalBoxes,
    ImageAnnotations,
    ImageRecord,
)
from boxwright.ops.arrays import Floats, Ints
from boxwright.terminal import say_once

SPLITS = ("mini_train", "mini_val", "train", "val", "test", "train_detect", "train_track")
EVERYTHING = "all"
"""The split of every scene that a version has."""

_TRAIN_DETECT = (
    "1-2 41-76 161-168 170-176 190-196 199-200 202-204 206-214 254-264 283-306 315-318 321 323-324 347-375 382 420-439 "
    "457-459 461-465 467-469 471-472 474-480 566 568 570-578 580 582-583 665-679 681 683-689 739-741 744 746-747 "
    "749-752 757-765 767-769 868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-991 1011-1025 "
    "1074-1102 1104-1105"
)
_TRAIN_TRACK = (
    "4-11 19-34 120-135 138-139 149-152 154-155 157-160 177-185 187-188 218-220 222 224-253 328 376-381 383-386 "
    "388-403 405-408 410-419 440-456 499-502 504-515 517-518 525-539 541-546 584-600 639-664 695-698 700-701 703-719 "
    "726-728 730-731 733-738 786-787 789-792 803-806 808-813 815-817 819-822 847-856 858 860-866 992 994-1010 "
    "1044-1058 1106-1110"
)
_NUMBERS = {
    "mini_train": "61 553 655 757 796 1077 1094 1100",
    "mini_val": "103 916",
    "train": f"{_TRAIN_DETECT} {_TRAIN_TRACK}",
    "val": (
        "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775 "
        "777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073"
    ),
    "test": (
        "77-91 111-119 140 142-148 265-266 279-282 307-314 333-343 481-498 547-551 601-604 606-624 827-831 833-842 "
        "844-846 932-933 935-943 1026-1043"
    ),
    "train_detect": _TRAIN_DETECT,
    "train_track": _TRAIN_TRACK,
}


@cache
def official_scenes(split: str) -> frozenset[str]:
    """Return the names of the scenes that nuScenes publishes for a split."""
    ranges = (tuple(map(int, part.split("-"))) for part in _NUMBERS[split].split())
    return frozenset(f"scene-{number:04d}" for ends in ranges for number in range(ends[0], ends[-1] + 1))


def splits_of(scenes: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Share the scenes of a version out to splits, in their order; a split may have none.

    A file `splits.json` in the version folder, a mapping of split to scene names, goes before the published lists.
    Where no scene is in any published list, the last fifth of them is val (and mini_val), the rest train; a version
    whose name ends in `test` is then all test.

    Args:
        scenes: names of the scenes that the version has, in the order of its samples.
        folder: the version folder.

    Raises:
        UserError: `splits.json` is no such mapping.
    """
    own = folder / "splits.json"
    if own.is_file():
        with file_errors("read", own):
            content = own.read_bytes()
        try:
            named = TypeAdapter(dict[str, list[str]]).validate_json(content)
        except ValidationError as error:
            raise UserError(f"{own} is not a mapping of splits to lists of scene names") from error
    elif any(scene in official_scenes(name) for scene in scenes for name in ("train", "val", "test")):
        named = {split: official_scenes(split) for split in SPLITS}
    elif folder.name.endswith("test"):
        named = dict.fromkeys(SPLITS, ()) | {"test": scenes}
    else:
        # Same shares as a usual 80 / 20 division; a single scene is train, since training needs one.
        first = len(scenes) - (max(len(scenes) // 5, 1) if len(scenes) > 1 else 0)
        shares = {"train": scenes[:first], "val": scenes[first:]}
        named = {split: shares.get(split.removeprefix("mini_"), ()) for split in SPLITS}
    wanted = {split: frozenset[str](names) for split, names in named.items()}
    return {split: [scene for scene in scenes if scene in own] for split, own in wanted.items()}


def scenes_of_split(split: str, scenes: Sequence[str], folder: Path) -> list[str]:
    """Select the scenes of a version that belong to a split (EVERYTHING: all), see `splits_of`.

    Raises:
        UserError: there is no such split, it has none of the scenes, or `splits.json` cannot be used.
    """
    if split == EVERYTHING:
        return list(scenes)
    splits = splits_of(scenes, folder)
    if split not in splits:
        raise UserError(f"{folder} has no split {split}; there are {', '.join((*splits, EVERYTHING))}")
    if not splits[split]:
        # A message that names where the scenes are saves a look into the tables.
        there = ", ".join(name for name, own in splits.items() if own)
        raise UserError(
            f"{folder} has no scene of the split {split}" + (f"; its scenes are in {there}" if there else "")
        )
    return splits[split]


def splits_there(scenes: Sequence[str], folder: Path) -> list[str]:
    """List the splits of which a version has scenes."""
    return [name for name, own in splits_of(scenes, folder).items() if own]


def usual_splits(scenes: Sequence[str], folder: Path) -> list[str]:
    """List the splits that a version is published for: mini_train, mini_val of a mini version, else train, val, test.

    With a `splits.json`, those that it names; of several names of the same scenes the first.
    """
    there = splits_there(scenes, folder)
    if (folder / "splits.json").is_file():
        own = splits_of(scenes, folder)
        return [name for at, name in enumerate(there) if own[name] not in [own[other] for other in there[:at]]]
    usual = ("mini_train", "mini_val") if folder.name.endswith("mini") else ("train", "val", "test")
    return [name for name in usual if name in there] or [EVERYTHING]


class NuscenesSplit:
    """A split of a version. Images stand by sample, and by sensor id within a sample.

    Raises:
        UserError: the version has no scene of the split, or a file is not there and the index does not allow that.
    """

    scene_names: list[str]  # in the order of their samples
    sample_rows: Ints  # rows of the split's key frames in the arrays of the index
    image_rows: Ints  # and of its images

    def __init__(
        self,
        index: NuscenesIndex,
        split: str,
        num_sweeps: int = 1,
        scenes: Sequence[str] | None = None,
        reading: RadarReading = DEVKIT,
    ) -> None:
        if num_sweeps < 0:
            raise UserError(f"radar sweeps are counted from 0, not {num_sweeps}")
        self.index, self.split, self.num_sweeps, self.reading = index, split, num_sweeps, reading
        names = scenes_of_split(split, index.scenes, index.folder)
        self.scene_names = [name for name in names if scenes is None or name in scenes]
        rows, images, radars = (index.arrays[name] for name in ("samples", "images", "radars"))
        self.sample_rows = np.flatnonzero(np.isin(index.scenes, self.scene_names)[rows["scene"]])
        image_rows = np.flatnonzero(np.isin(images["sample"], self.sample_rows))
        self.image_rows = np.setdiff1d(image_rows, self._absent("images", image_rows))
        sweeps, at = np.zeros(0, np.int64), rows["radars"][self.sample_rows]
        for _ in range(num_sweeps):
            at = at[at >= 0]
            sweeps = np.union1d(sweeps, at)
            at = radars["prev"][at]
        # A set, as a worker asks it for each sweep.
        self._gone = frozenset(self._absent("radars", sweeps).tolist())
        self._position = np.full(len(rows), -1, np.int64)
        self._position[self.sample_rows] = np.arange(len(self.sample_rows))

    def _absent(self, name: Literal["images", "radars"], positions: Ints) -> Ints:
        """Select those whose files are missing; that is a user error unless the index allows it."""
        rows = self.index.arrays[name]["row"][positions]
        lost = np.flatnonzero(absent(self.index, rows))
        kind = "images" if name == "images" else "radar sweeps"
        if len(lost) and self.index.allow_missing:
            where = self.scene_names[0] if self.split == "all" and len(self.scene_names) == 1 else self.split
            say_once(f"{where}: {len(lost)} of {len(rows)} {kind} are missing and left out")
        elif len(lost):
            more = f", as are other {kind} of {self.split}, {len(lost)} in all" if len(lost) > 1 else ""
            raise UserError(
                f"{self.index.root / self.index.file_name(int(rows[lost[0]]))} is missing{more}; "
                "allow missing files (--allow-missing) to go on without them"
            )
        return positions[lost]

    def __len__(self) -> int:
        return len(self.image_rows)

    @cached_property
    def sample_tokens(self) -> list[str]:
        """List the tokens of the key frames, scene by scene in order of time."""
        return [token.decode() for token in self.index.arrays["sample_tokens"][self.sample_rows]]

    @cached_property
    def image_ids(self) -> Ints:
        """Return (N,) ids that the published conversion gives the images: from 1, in the order of visits."""
        images = self.index.arrays["images"][self.image_rows]
        ids = np.empty(len(images), np.int64)
        # The published converter visits samples in order and their cameras as the table lists them.
        ids[np.lexsort((images["row"], images["sample"]))] = np.arange(1, len(images) + 1)
        return ids

    @cached_property
    def has_annotations(self) -> bool:
        """Whether any object of the split is annotated."""
        return bool(np.isin(self.index.arrays["annotations"]["sample"], self.sample_rows).any())

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint notes of these images, see `data.identity`."""
        images, objects = self.index.arrays["images"][self.image_rows], self.index.arrays["annotations"]
        names = (os.fsencode(self.index.file_name(int(row))) for row in images["row"])
        return describe_images(names, [objects[np.isin(objects["sample"], self.sample_rows)].tobytes()])

    def scene_of_sample(self, sample: int) -> str:
        """Return the name of the scene of a key frame."""
        return self.index.scenes[int(self.index.arrays["samples"]["scene"][self.sample_rows[sample]])]

    def global_from_ego(self, sample: int) -> Floats:
        """Return the (4, 4) pose of the car at a key frame."""
        pose = self.index.arrays["poses"][self.index.arrays["samples"]["pose"][self.sample_rows[sample]]]
        return transforms(pose["translation"], pose["rotation"])

    def images_of_sample(self, sample: int) -> list[int]:
        """Return the positions of the images of a key frame, by sensor id."""
        low, high = np.searchsorted(
            self.index.arrays["images"]["sample"][self.image_rows], self.sample_rows[sample] + np.arange(2)
        )
        return list(range(low, high))

    def samples_of_scene(self, name: str) -> list[int]:
        """Return the positions in `sample_tokens` of a scene's key frames.

        Raises:
            UserError: the split has no such scene; the sentence names some that it has.
        """
        if name not in self.scene_names:
            some = ", ".join(self.scene_names[:10]) + (", ..." if len(self.scene_names) > 10 else "")
            raise UserError(f"{self.index.folder} has no scene {name} in {self.split}; there are {some}")
        scene = self.index.scenes.index(name)
        return np.flatnonzero(self.index.arrays["samples"]["scene"][self.sample_rows] == scene).tolist()

    def record(self, position: int) -> ImageRecord:
        """Return what is known of an image."""
        number = int(self.image_rows[position])
        arrays = self.index.arrays
        image = arrays["images"][number]
        calib = np.zeros((3, 4))
        calib[:, :3] = published_intrinsics(arrays["calibrations"]["intrinsic"][image["calibration"]])
        low, high = arrays["seen_offsets"][number : number + 2]
        seen = np.array(arrays["seen"][low:high])
        seen = seen[~seen["hidden"]]
        rows = arrays["annotations"][seen["annotation"]]
        annotations = ImageAnnotations(
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
        return ImageRecord(
            path=self.index.root / self.index.file_name(image["row"]),
            width=int(image["width"]),
            height=int(image["height"]),
            sensor=int(image["sensor"]),
            sample=int(self._position[image["sample"]]),
            calib=calib,
            global_from_cam=np.array(image["global_from_cam"]),
            annotations=annotations,
        )

    def radar(self, position: int) -> Floats:
        """Read the (18, N) radar points of an image, gathered in the camera frame, see `RADAR_FIELDS`; N may be 0.

        Rows 8 and 9 are the velocity along camera x and z.

        Raises:
            UserError: a sweep cannot be read, is cut off, or has other fields.
        """
        arrays = self.index.arrays
        image = arrays["images"][int(self.image_rows[position])]
        key = arrays["samples"][image["sample"]]["radars"]
        prev = arrays["radars"]["prev"]
        sweeps: list[int] = []
        for radar in RADARS_OF_CAMERA[CAMERAS[image["sensor"] - 1]]:
            at = int(key[CHANNELS.index(radar) - FIRST_RADAR])
            for _ in range(self.num_sweeps):
                if at < 0:
                    break
                if at not in self._gone:
                    sweeps.append(at)
                at = int(prev[at])
        rows = arrays["radars"][sweeps]
        pose, calibration = arrays["poses"][rows["pose"]], arrays["calibrations"][rows["calibration"]]
        global_from_radar = transforms(pose["translation"], pose["rotation"]) @ transforms(
            calibration["translation"], calibration["rotation"]
        )
        cam_from_global = inverses(image["global_from_cam"])
        points = [read_radar(self.index.root / self.index.file_name(row), self.reading) for row in rows["row"]]
        seconds = (image["timestamp"] - rows["timestamp"]) * 1e-6 if self.reading.move_points else None
        return accumulate(points, cam_from_global @ global_from_radar, seconds)

    def labels_of_images(self) -> tuple[Ints, Ints]:
        """Return the labels (N,) of all objects that images show, and the position (N,) of the image of each."""
        arrays = self.index.arrays
        position = np.full(len(arrays["images"]), -1, np.int64)
        position[self.image_rows] = np.arange(len(self))
        images = np.repeat(position, np.diff(arrays["seen_offsets"]))
        some = np.flatnonzero((images >= 0) & ~arrays["seen"]["hidden"])
        return arrays["annotations"]["label"][arrays["seen"]["annotation"][some]].astype(np.int64), images[some]

    def ground_truth(self) -> GlobalBoxes:
        """Return all annotations of the ten classes, as the metric takes them."""
        return self._annotated(racks=False)

    def bike_racks(self) -> GlobalBoxes:
        """Return the bicycle racks, which take part in the metric but are no class."""
        return self._annotated(racks=True)

    def _annotated(self, *, racks: bool) -> GlobalBoxes:
        rows = self.index.arrays["annotations"]
        samples = self._position[rows["sample"]]
        some = np.flatnonzero((samples >= 0) & ((rows["label"] == BIKE_RACK) == racks))
        rows = np.array(rows[some])
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

    def ego_positions(self) -> Floats:
        """Return (S, 3) metres, global frame: where the car was at each key frame, by its lidar's pose."""
        poses = self.index.arrays["samples"]["pose"][self.sample_rows]
        made = np.array(self.index.arrays["poses"]["translation"][poses])
        # A key frame without any record has no pose; NaN leaves its boxes out of every range.
        made[poses < 0] = np.nan
        return made
