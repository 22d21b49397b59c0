"""Make the golden vectors of this folder from the whole recordings: `python -m tests.golden.subset GOLDEN GOLDEN_HUB`.

Kept are numbers: inputs and outputs of the published programs. `KEEP` says which files, and of them which cases and
which part of long arrays. Arrays that come twice, or are long, go to `common/` in pieces. Bytes depend on nothing else
(but the release of zlib). `INDEX.md` says of each file where it comes from and how close a result must be.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import HERE

PIECE = 200_000  # bytes of a piece of a long array: files stay below 300 kB
SHARED_FROM = 4_000  # bytes: below, a second copy costs less than a file
MAX_FILE, MAX_TOTAL = 300_000, 6_000_000

Meta = Any
Kept = dict[str, np.ndarray]


@dataclass(frozen=True)
class Keep:
    """Files of a group, and what is kept of them."""

    files: str  # glob below the golden folder
    arrays: str = ""  # regular expression of array names; all
    cases: str = ""  # regular expression of entries of "cases", and so of the arrays named after them
    steps: dict[str, str] = field(default_factory=dict)  # array name (expression): every how many-eth along the axes
    trim: Callable[[Any, dict[str, np.ndarray]], None] | None = None  # changes both files of a case


def without_tta(meta: Meta, arrays: Kept) -> None:
    del meta["tta"]


def image_a(meta: Meta, arrays: Kept) -> None:
    meta["inputs"] = {"a": meta["inputs"]["a"]}


def without_mini_train(meta: Meta, arrays: Kept) -> None:
    del meta["mini_train"]


def six_updates(meta: Meta, arrays: Kept) -> None:
    meta["ema_sequence"]["steps"] = 6


def few_iterations(meta: Meta, arrays: Kept) -> None:
    """Every seventh entry of the long logs; the list of optimizer steps stays whole."""
    for case in meta["cases"]:
        for key in ("iterations", "lr_bias", "lr_weight", "lr_norm", "momentum", "accumulate"):
            case[key] = case[key][::7]


def few_samples(meta: Meta, arrays: Kept) -> None:
    """A submission without its sample of 500 boxes."""
    results = meta["submission"]["results"]
    if "sample_a" not in results or len(results["sample_a"]) < 500:
        return
    del results["sample_a"]
    gone = {image["id"] for image in meta["images"] if image["sample_token"] == "sample_a"}
    meta["images"] = [image for image in meta["images"] if image["id"] not in gone]
    meta["images_with_results"] = [image for image in meta["images_with_results"] if image not in gone]
    if arrays:
        keep = ~np.isin(arrays["det/image_id"], list(gone))
        arrays |= {name: values[keep] for name, values in arrays.items() if name.startswith("det/")}


# Rows, columns and channels of raw maps; rows of decoded boxes, with all their numbers. Odd steps meet all anchors.
SAMPLED = {
    ".*tta_decoded": "1x61",
    ".*decoded": "1x11",
    ".*raw0": "1x1x3x3x3",
    ".*raw1": "1x1x2x2x3",
    ".*raw2": "1x1x1x1x3",
}
FEW_CLASSES = {".*tta_decoded": "1x31", ".*decoded": "1x7", ".*raw0": "1x1x3x3"}
HEADS = {"out/.*": "1x1x4x5", "feat/.*": "1x5x3x3"}
KEEP = (
    # YOLO
    Keep("yolo/anchors/*", steps={"metric.*": "5"}),
    Keep("yolo/augment/geometry_v[12].0.*", arrays="(?!c._image).*"),
    Keep("yolo/augment/geometry_yolov3spp.*", arrays="(?!c._image).*"),
    Keep("yolo/augment/geometry_v[37].0.*"),
    Keep("yolo/augment/candidates_*"),
    Keep("yolo/augment/[hcm][sioi]*_v7.0.*"),
    Keep("yolo/darknet/tiny.*"),
    Keep("yolo/darknet/yolov3-spp_layers.json"),
    Keep("yolo/dataset/*"),
    Keep("yolo/forward/inputs.npz", arrays="[act]"),
    Keep("yolo/forward/v[12].0_yolov5s.*", arrays="c_.*|tta_.*", steps=SAMPLED),
    Keep("yolo/forward/v3.1_yolov5s.*", steps=SAMPLED),
    Keep("yolo/forward/v5.0_yolov5s_nc20.*", arrays="a_.*", steps=FEW_CLASSES, trim=without_tta),
    Keep("yolo/forward/v6.0_yolov5n_nc6.*", steps=FEW_CLASSES),
    Keep("yolo/forward/v6_yolov5n6_nc5.*", steps=FEW_CLASSES),
    Keep("yolo/forward/v6_yolov5n.*", arrays="[^b].*", steps=SAMPLED, trim=image_a),
    Keep("yolo/forward/yolov3_tiny.*", steps=SAMPLED),
    Keep("yolo/forward/yolov3_spp_yaml.*", steps=FEW_CLASSES),
    Keep("yolo/forward/darknet_yolov3_spp_nc20.*", steps={"decoded": "1x7", ".*raw2": "1x1x3x3", ".*raw1": "1x1x2x2"}),
    Keep("yolo/iou/v[147].*"),
    Keep("yolo/iou/v3.1.*"),
    Keep("yolo/iou/yolov3spp.*"),
    *(
        Keep(f"yolo/keys/{name}.json")
        for name in (
            "v1.0_yolov5s v2.0_yolov5x-nc1-article v5.0_yolov5s6 v6.0_yolov5s v7.0_yolov5n "
            "v7.0_yolov3-tiny darknet_yolov3-spp_nc20 head_bias_offsets"
        ).split()
    ),
    Keep("yolo/labels/**/*"),
    Keep("yolo/letterbox/[bp]*"),
    Keep("yolo/letterbox/s*_v[17].0.*"),
    Keep("yolo/letterbox/s*_v3.1.*"),
    Keep("yolo/letterbox/s*_yolov3spp.*"),
    Keep("yolo/loss/v1.0_b*"),
    Keep("yolo/loss/v2.0_p6*"),
    Keep("yolo/loss/v3.0_p6*"),
    Keep("yolo/loss/v4.0_borders*"),
    *(
        Keep(f"yolo/loss/v7.0_{case}*")
        for case in "default autobalance borders duplicates_l focal label no_targets p6_4layers_autobalance pos".split()
    ),
    *(Keep(f"yolo/loss/yolov3spp_{case}*") for case in "borders focal iou_t nc1 seed".split()),
    Keep("yolo/metrics/ap_v[67].0.*"),
    Keep("yolo/metrics/match*"),
    Keep("yolo/metrics/end_to_end.*"),
    Keep("yolo/nms/v6.1.*"),
    Keep("yolo/nms/v7.*"),
    Keep("yolo/nms/v3.1.*"),
    Keep("yolo/nms/yolov3spp.*"),
    Keep("yolo/schedule/ema.npz", arrays=r"(model|start\d+.ema)[0-5]\|.*"),
    Keep("yolo/schedule/misc.json", trim=six_updates),
    Keep("yolo/schedule/[hpy]*"),
    Keep("yolo/schedule/iterations_v[1567].*", trim=few_iterations),
    Keep("yolo/schedule/iterations_v3.1.*", trim=few_iterations),
    # hub models of YOLOv5 6.x
    *(Keep(f"hub/keys/v7.0_{name}.json") for name in "yolov5-p34_nc4 yolov5s-ghost_nc80".split()),
    Keep("hub/forward/v7.0_yolov5-p34_nc4.*", steps=FEW_CLASSES),
    Keep("hub/forward/v7.0_yolov5s-[gt]*", steps=SAMPLED | {".*decoded": "1x23"}),
    Keep("hub/blocks/*", steps={"output": "1x1x3x3"}),
    # CenterFusion
    Keep("centerfusion/color_aug.*"),
    Keep("centerfusion/convert_[13]sweeps.*", arrays="mini_val/.*", trim=without_mini_train),
    Keep("centerfusion/decode.*", cases="camera_only"),
    Keep("centerfusion/disable_frustum.*"),
    Keep("centerfusion/eval/metrics.json"),
    Keep("centerfusion/eval/submission_mini_val_noisy.json"),
    Keep("centerfusion/eval/submission_mini_val_perfect.json"),
    Keep("centerfusion/forward_train.*", steps=HEADS),
    Keep("centerfusion/forward_eval_frustum.*", steps=HEADS),
    Keep("centerfusion/frustum_inference.*", cases="(?!random_|batch_of|box_ratio|huge_box_window|just_inside).*"),
    Keep("centerfusion/frustum_training.*"),
    Keep("centerfusion/gaussian.*"),
    Keep("centerfusion/losses.*", cases="saturated|no_a.*|one_image_empty"),
    Keep("centerfusion/model_schema.json"),
    Keep("centerfusion/pipeline.*", steps={".*/hm_logits_s4": "1x1x3x3"}),
    Keep("centerfusion/radar_accumulation.*"),
    Keep("centerfusion/submission*.*", trim=few_samples),
    Keep("centerfusion/targets.*", cases="(?!many_|train_identity|train_shift|train_flip|no_normalize).*"),
    Keep("centerfusion/tiny_targets.*", cases="mini_val/.*"),
    Keep("centerfusion/train_step.*"),
)

ABOUT = """Inputs and outputs of the published programs, recorded on a CPU in float32 (CenterFusion's networks in
float64): numbers, no code and no weights. Written by `tests/golden/subset.py` from the whole recordings, which
`BOXWRIGHT_GOLDEN` adds. Weights of networks are filled by name (`fill.py`). In an archive, `name@2x3` is every second
row and every third column of an array, `name=PIECE` an array that lies in `common/`, and a name that ends in `~` has
the bytes of its numbers apart. A tolerance is relative, or relative and absolute: what float arithmetic needs.
`common/` holds arrays that several cases name, `labels/files/` the inputs of `labels/`."""

YOLO = "YOLOv5 of the release in the name (v6: 7.0; yolov3spp, darknet: the PyTorch YOLOv3-SPP of the article line)"
SOURCES = {  # files (expression): recorded from, how close a result must be
    r"yolo/anchors": (YOLO, "1e-5; fitness: at least the recorded one"),
    r"yolo/augment": (YOLO, "boxes 1e-4 and 1e-3 px; warped pixels 8 grey levels; colours, mosaic, mixup exact"),
    r"yolo/darknet/tiny": (YOLO, "raw 1e-4 and 5e-4; boxes 5e-4 and 1e-2 px; bytes exact"),
    r"yolo/(darknet|keys|labels)": (YOLO, "exact"),
    r"yolo/(dataset|letterbox)": (YOLO, "exact, pixels too; weights and scales 1e-6"),
    r"yolo/forward": (YOLO, "raw 1e-4 and 5e-4; boxes 1e-4 and 2e-2 px; folded and augmented 1e-4 and 3e-2"),
    r"yolo/iou": (YOLO, "1e-5 and 1e-6; rows listed as not finite: finite here"),
    r"yolo/loss": (YOLO, "1e-5 and 1e-6; gradients 1e-4 and 1e-7; assignment exact"),
    r"yolo/metrics": (YOLO + "; pycocotools", "1e-6; counts exact"),
    r"yolo/nms": (YOLO, "1e-5 and 1e-3 px; the same rows"),
    r"yolo/schedule": (YOLO, "1e-9; steps of the optimizer exact"),
    r"hub/blocks": ("YOLOv5 7.0", "1e-4"),
    r"hub/forward": ("YOLOv5 7.0", "raw 1e-4 and 5e-4; boxes 1e-4 and 3e-2 px"),
    r"hub/keys": ("YOLOv5 7.0", "exact"),
    r"centerfusion/convert|centerfusion/radar": ("CenterFusion's conversion, on a made set", "1e-3"),
    r"centerfusion/eval": ("nuScenes devkit, detection_cvpr_2019, on a made set", "1e-9"),
    r"centerfusion/frustum|centerfusion/disable": ("CenterFusion", "maps 1e-5; depths and boxes 1e-4"),
    r"centerfusion/submission": ("CenterFusion", "translation 1e-2 m; all else 1e-4"),
    r"centerfusion/targets|centerfusion/tiny": ("CenterFusion", "1e-4; image 0.02; radar but 0.1 % of the cells"),
    r"centerfusion/nuscenes-tiny": ("made: random tables and radar, rendered boxes", "input"),
    r"centerfusion": ("CenterFusion, networks in float64", "1e-4 (1 + |b|)"),
}


def write_index() -> None:
    files = [path for family in ("centerfusion", "hub", "yolo") for path in sorted((HERE / family).rglob("*.*"))]
    rows: list[str] = []
    for path in files:
        name, size = path.relative_to(HERE).as_posix(), path.stat().st_size
        assert size <= MAX_FILE, f"{name} has {size} bytes"
        if (
            "/common/" in name
            or "/labels/files/" in name
            or (path.suffix == ".npz" and path.with_suffix(".json") in files)
        ):
            continue
        source, tolerance = next(value for expression, value in SOURCES.items() if re.match(expression, name))
        rows.append(f"| `{name}` | {source} | {tolerance} |")
    total = sum(path.stat().st_size for path in files)
    assert total <= MAX_TOTAL, f"{total} bytes"
    head = f"# Recorded numbers\n\n{ABOUT}\n\n| file | recorded from | tolerance |\n|---|---|---|\n"
    (HERE / "INDEX.md").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(files)} files, {total} bytes")


@dataclass
class Case:
    """What is kept of the two files of a case."""

    file: Path  # of the copy
    meta: Meta
    arrays: Kept


def selected(keep: Keep, source: Path, target: Path) -> Case:
    meta = json.loads(source.with_suffix(".json").read_text()) if source.with_suffix(".json").exists() else None
    dropped: list[str] = []
    if keep.cases:
        dropped = [name for name in meta["cases"] if not re.fullmatch(keep.cases, name)]
        meta["cases"] = {name: case for name, case in meta["cases"].items() if name not in dropped}
    if keep.cases and "records" in meta:
        used = {case["record"] for case in meta["cases"].values()}
        dropped += [f"record_{name}" for name in meta["records"] if name not in used]
        meta["records"] = {name: record for name, record in meta["records"].items() if name in used}
    arrays: Kept = {}
    if source.with_suffix(".npz").exists():
        with np.load(source.with_suffix(".npz")) as stored:
            for name in stored.files:
                if any(name.startswith(f"{case}/") for case in dropped):
                    continue
                if keep.arrays and not re.fullmatch(keep.arrays, name):
                    continue
                steps = next((steps for expression, steps in keep.steps.items() if re.fullmatch(expression, name)), "")
                parts = tuple(slice(None, None, int(step)) for step in steps.split("x")) if steps else ()
                arrays[f"{name}@{steps}" if steps else name] = np.array(stored[name][parts], order="C")
    if keep.trim:
        keep.trim(meta, arrays)
    return Case(target, meta, arrays)


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes() + str(values.dtype).encode()).hexdigest()[:16]


def write_npz(file: Path, arrays: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, bytes] = {}
    for name, values in arrays.items():
        buffer = io.BytesIO()
        if values.dtype.kind == "f" and values.nbytes > 512:  # exponents apart from digits: a tenth less
            name, values = f"{name}~", np.moveaxis(values[..., None].view(np.uint8), -1, 0)
        np.lib.format.write_array(buffer, np.array(values, order="C"), allow_pickle=False)
        content[f"{name}.npy"] = buffer.getvalue()
    write_zip(file, content)


def write_zip(file: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in content.items():
            archive.writestr(
                zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED
            )  # a fixed date, the same bytes each time


def write_cases(cases: list[Case]) -> None:
    """Long arrays and those that come twice go to pieces in `common/`, of which the case holds the names."""
    counts = Counter(
        (case.file.parent, digest(values))
        for case in cases
        for values in case.arrays.values()
        if values.nbytes >= SHARED_FROM
    )
    for case in cases:
        case.file.parent.mkdir(parents=True, exist_ok=True)
        if case.meta is not None:
            case.file.with_suffix(".json").write_text(compact(case.meta), encoding="utf-8")
        written: Kept = {}
        for name, values in case.arrays.items():
            if counts[case.file.parent, digest(values)] < 2 and values.nbytes <= PIECE:
                written[name] = values
                continue
            every = PIECE // values.itemsize
            pieces = [values.reshape(-1)[start : start + every] for start in range(0, values.size, every)]
            for piece in pieces:
                write_npz(case.file.parent / "common" / f"{digest(piece)}.npz", {"values": piece})
            written[f"{name}={'+'.join(map(digest, pieces))}"] = np.array(values.shape)
        if written:
            write_npz(case.file.with_suffix(".npz"), written)


def write_nuscenes_tiny(root: Path, target: Path) -> None:
    """Tables of the made set, and those of its radar sweeps and pictures (rendered boxes) that vectors speak of."""
    family = root.parent
    shown = {case.get("file_name") for case in json.loads((family / "pipeline.json").read_text())["cases"].values()}
    accumulated = json.loads((family / "radar_accumulation.json").read_text())["cases"].values()
    read = {sweep["file"] for case in accumulated for sweep in case["sweeps"]}
    content: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".json":
            content[name] = compact(json.loads(path.read_text())).encode()
        elif name in shown | read or (path.suffix == ".pcd" and path.name.startswith("synthetic-1")):  # of mini_val
            content[name] = path.read_bytes()
    write_zip(target, content)


def compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n"


def main(golden: Path, hub: Path) -> None:
    for family in ("yolo", "hub", "centerfusion"):
        shutil.rmtree(HERE / family, ignore_errors=True)
    folders = {"yolo": golden / "yolo", "centerfusion": golden / "centerfusion", "hub": hub}
    cases: dict[Path, Case] = {}
    for keep in KEEP:
        family, pattern = keep.files.split("/", 1)
        sources = sorted(path for path in folders[family].glob(pattern) if path.is_file())
        assert sources, keep.files
        for source in sources:
            target = HERE / family / source.relative_to(folders[family])
            if source.suffix in (".npz", ".json"):
                cases[target.with_suffix("")] = selected(keep, source, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
    write_cases(list(cases.values()))
    write_nuscenes_tiny(folders["centerfusion"] / "nuscenes-tiny", HERE / "centerfusion" / "nuscenes-tiny.zip")
    write_index()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
