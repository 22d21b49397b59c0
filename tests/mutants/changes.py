"""Sixty changes of formulae as a slip of the hand would make them, and the tests that are to see each.

They were written down before any was tried. A change that no test sees gets a test; it is not replaced by another one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One piece of text, which the file holds exactly once, and what it becomes."""

    file: str  # below src/boxwright
    old: str
    new: str


TESTS = {  # of each file, the fastest first
    "yolo/loss.py": "parity/test_loss.py parity/test_loss_v3.py parity/test_schedule.py unit/yolo/test_loss.py",
    "yolo/assignment.py": "parity/test_loss.py parity/test_loss_v3.py unit/yolo/test_assignment.py",
    "ops/boxes.py": "unit/ops/test_boxes.py parity/test_iou.py parity/test_box_conversions.py",
    "ops/nms.py": "parity/test_nms.py unit/ops/test_nms.py",
    "yolo/head.py": "unit/yolo/test_detection.py parity/test_forward.py parity/test_keys.py",
    "yolo/postprocess.py": "unit/yolo/test_postprocess.py parity/test_tta.py",
    "engine/schedule.py": "parity/test_schedule.py unit/engine/test_schedule.py unit/yolo/test_schedule.py",
    "engine/optim.py": "parity/test_schedule.py unit/engine/test_optim.py",
    "engine/stopping.py": "parity/test_schedule.py unit/engine/test_trainer.py",
    "yolo/metric.py": "parity/test_metrics.py unit/yolo/test_metric.py",
    "metrics/matching.py": "parity/test_metrics.py unit/metrics/test_matching.py",
    "nuscenes/metric.py": "parity/test_cf_eval.py unit/nuscenes/test_metric.py",
    "nuscenes/radar.py": "parity/test_cf_radar.py parity/test_cf_convert.py unit/nuscenes/test_split.py",
    "synthetic/radar.py": "unit/synthetic/test_radar.py unit/synthetic/test_nuscenes_root.py",
    "centerfusion/radar_map.py": "parity/test_cf_targets.py unit/centerfusion/test_radar_map.py",
    "centerfusion/frustum.py": "parity/test_cf_frustum.py unit/centerfusion/test_frustum.py",
    "centerfusion/losses.py": "parity/test_cf_losses.py unit/centerfusion/test_losses.py",
    "centerfusion/heads.py": "parity/test_cf_gaussian.py unit/centerfusion/test_heads.py",
    "centerfusion/targets.py": "parity/test_cf_targets.py unit/centerfusion/test_samples.py",
    "centerfusion/postprocess.py": "parity/test_cf_decode.py unit/centerfusion/test_postprocess.py",
    "data/letterbox.py": "parity/test_letterbox.py parity/test_rect.py",
    "yolo/geometry.py": "parity/test_augment.py unit/yolo/test_samples.py",
    "yolo/augmentation.py": "parity/test_augment.py unit/yolo/test_augmentation.py",
}

LOSS, ASSIGNMENT, BOXES, NMS, HEAD = "yolo/loss.py", "yolo/assignment.py", "ops/boxes.py", "ops/nms.py", "yolo/head.py"
SCHEDULE, OPTIM, METRIC, MATCHING = "engine/schedule.py", "engine/optim.py", "yolo/metric.py", "metrics/matching.py"
NDS, RADAR, RADAR_MAP, FRUSTUM = (
    *("nuscenes/metric.py", "nuscenes/radar.py"),
    *("centerfusion/radar_map.py", "centerfusion/frustum.py"),
)
CF_HEADS, CF_POST = "centerfusion/heads.py", "centerfusion/postprocess.py"
LETTERBOX, GEOMETRY, AUGMENTATION = "data/letterbox.py", "yolo/geometry.py", "yolo/augmentation.py"

CHANGES = (
    # losses of YOLO
    Change(LOSS, "coding.scale_xy - (coding.scale_xy - 1) / 2", "coding.scale_xy + (coding.scale_xy - 1) / 2"),
    Change(LOSS, "weights * (1.0 - agreement) ** gamma", "weights * agreement**gamma"),
    Change(LOSS, "_AUTOBALANCE_RATE = 0.0001", "_AUTOBALANCE_RATE = 0.001"),
    Change(LOSS, "(imgsz / 640) ** 2", "(imgsz / 640)"),
    Change(LOSS, "found.labels[:, None], 1.0 - smooth)", "found.labels[:, None], 1.0)"),
    Change(LOSS, "(1.0 - gr) + gr * iou", "gr * iou"),
    Change(LOSS, "iou.argsort(stable=True)", "iou.argsort(stable=True, descending=True)"),
    Change(LOSS, "config.cls * num_classes / 80}", "config.cls * 80 / num_classes}"),
    Change(LOSS, "cls / (total * self.num_classes)", "cls / total"),
    Change(LOSS, "iou.detach().clamp(min=0)", "iou.detach()"),
    # assignment
    Change(ASSIGNMENT, "(larger < anchor_t)", "(larger <= anchor_t)"),
    Change(ASSIGNMENT, "(centre % 1 < reach) & (centre > 1)", "(centre % 1 < reach) & (centre > 0)"),
    Change(ASSIGNMENT, "offset_x, offset_y = x - columns, y - rows", "offset_x, offset_y = x - cell_x, y - cell_y"),
    Change(ASSIGNMENT, "+ second.prod(dim=1) - overlap", "+ second.prod(dim=1)"),
    # overlaps and the way back from a letterbox
    Change(BOXES, "(hull_area - union) / hull_area", "(hull_area - union) / union"),
    Change(BOXES, "hull_width.square() + hull_height.square() + eps", "(hull_width + hull_height).square() + eps"),
    Change(BOXES, "(4 / math.pi**2)", "(2 / math.pi**2)"),
    Change(BOXES, "(boxes - pad) / scale", "boxes / scale - pad"),
    # suppression
    Change(NMS, "class_offset: float = 7680.0", "class_offset: float = 4096.0"),
    Change(NMS, "picked[:, 5:] * picked[:, 4:5]", "picked[:, 5:]"),
    # decoding
    Change(
        HEAD,
        "cell_x = torch.arange(width, device=boxes.device, dtype=torch.float32) - 0.5",
        "cell_x = torch.arange(width, device=boxes.device, dtype=torch.float32)",
    ),
    Change(HEAD, "boxes[..., 2:].mul_(2).square_()", "boxes[..., 2:].square_().mul_(2)"),
    Change(HEAD, "(NOMINAL_SIDE / stride) ** 2", "(NOMINAL_SIDE / stride)"),
    Change("yolo/postprocess.py", "rows[..., 0] = width - rows[..., 0]", "rows[..., 0] = width - 1 - rows[..., 0]"),
    # schedules
    Change(SCHEDULE, "/ 2) * (lrf - 1) + 1", "/ 2) * (lrf - 1) + lrf"),
    Change(SCHEDULE, "if waited > patience:", "if waited >= patience:"),
    Change(SCHEDULE, "self.batch_size * accumulate / config.nominal", "self.batch_size / config.nominal"),
    Change(
        SCHEDULE, "(config.momentum - config.warmup_momentum) * share", "(config.momentum - config.warmup_momentum)"
    ),
    Change(SCHEDULE, "self.factor(epoch - is_late, fitness)", "self.factor(epoch, fitness)"),
    Change(SCHEDULE, "step - last_update >= accumulate", "step - last_update > accumulate"),
    # average of the weights, early stopping
    Change(OPTIM, "math.exp(-updates / self.tau)", "math.exp(-updates / (2 * self.tau))"),
    Change(OPTIM, "self._current, 1 - decay)", "self._current, 1 - self.decay)"),
    Change("engine/stopping.py", "improved = fitness >= self.best_fitness", "improved = fitness > self.best_fitness"),
    # metrics
    Change(METRIC, "np.concatenate(([1.0], precision, [0.0]))", "np.concatenate(([0.0], precision, [0.0]))"),
    Change(METRIC, "0.1 * map50 + 0.9 * map_all", "0.5 * map50 + 0.5 * map_all"),
    Change(MATCHING, "overlap = ious[:, None] >= thresholds", "overlap = ious[:, None] > thresholds"),
    Change(MATCHING, "SCORE_THRESHOLD, IOU_THRESHOLD = 0.25, 0.45", "SCORE_THRESHOLD, IOU_THRESHOLD = 0.25, 0.5"),
    Change(NDS, 'period = np.pi if CLASS_NAMES[label] == "barrier" else 2 * np.pi', "period = 2 * np.pi"),
    Change(NDS, "float(above.mean()) / (1 - MIN_PRECISION)", "float(above.mean())"),
    Change(NDS, "_volume(found_sizes) - smaller)", "_volume(found_sizes))"),
    # radar
    Change(RADAR_MAP, "points[1] -= config.z_offset", "points[1] += config.z_offset"),
    Change(RADAR_MAP, "np.maximum(down - height, 0)", "np.maximum(down - height / 2, 0)"),
    Change(RADAR_MAP, "image_hw[1] - 1 - pixels[0]", "image_hw[1] - pixels[0]"),
    Change(RADAR, "points[_VX], points[_VY] = velocity[0], velocity[2]", "points[_VX], points[_VY] = velocity[:2]"),
    Change(RADAR, "(np.abs(points[:2]) >= TOO_CLOSE).any(0)", "(np.abs(points[:2]) >= TOO_CLOSE).all(0)"),
    Change("synthetic/radar.py", "np.flatnonzero(visible[seen.numbers] > _HIDDEN)", "np.arange(len(seen.numbers))"),
    # frustum
    Change(
        FRUSTUM,
        "rotation.sin().abs() * length + rotation.cos().abs() * width",
        "rotation.cos().abs() * length + rotation.sin().abs() * width",
    ),
    Change(FRUSTUM, "(1.0 if options.fixed else 1.5)", "(1.0 if options.fixed else 2.0)"),
    # losses, targets and decoding of CenterFusion
    Change(
        "centerfusion/losses.py", "(1 - targets.heatmap.to(raw.dtype)) ** 4", "(1 - targets.heatmap.to(raw.dtype)) ** 2"
    ),
    Change(
        CF_HEADS, "sigma = (2 * radii.astype(np.float64) + 1) / 6", "sigma = (2 * radii.astype(np.float64) + 1) / 3"
    ),
    Change("centerfusion/targets.py", "sixth = np.pi / 6", "sixth = np.pi / 4"),
    Change(CF_POST, "torch.cat((-mirror[:, :1], mirror[:, 1:]), dim=1)", "mirror"),
    Change(CF_POST, "locations[..., 1] + found.dims[..., 0] / 2", "locations[..., 1] - found.dims[..., 0] / 2"),
    # letterbox
    Change(LETTERBOX, "max(round(height * scale), 1)", "max(int(height * scale), 1)"),
    Change(LETTERBOX, "top=round(pad_y - 0.1)", "top=round(pad_y + 0.1)"),
    # augmentation
    Change(GEOMETRY, "[[cosine, sine, 0.0], [-sine, cosine, 0.0]", "[[cosine, -sine, 0.0], [sine, cosine, 0.0]"),
    Change(GEOMETRY, "scale ** (rules.area_grows_with / 2)", "scale**rules.area_grows_with"),
    Change(AUGMENTATION, "(levels * hue) % _HUES", "np.clip(levels * hue, 0, _HUES - 1)"),
    Change(
        AUGMENTATION,
        "levels[:, None] * ratio + levels[None, :] * (1.0 - ratio)",
        "levels[:, None] * (1.0 - ratio) + levels[None, :] * ratio",
    ),
    Change(AUGMENTATION, "y - (k < 2) * height", "y - (k < 1) * height"),
)
