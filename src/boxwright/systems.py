"""The systems that --model can name."""

from collections.abc import Mapping
from typing import Any

from boxwright.engine.run import AnyRun


def run_class(settings: Mapping[str, Any]) -> AnyRun:
    """Find the class of training runs of the system that settings name, of a checkpoint too."""
    if settings.get("model") == "centerfusion-dla34":
        from boxwright.centerfusion.verbs.train import FusionRun

        return FusionRun
    from boxwright.yolo.verbs.train import YoloRun

    return YoloRun
