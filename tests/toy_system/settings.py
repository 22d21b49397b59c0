"""Settings of the toy system. Imports no torch."""

from boxwright.settings.base import Count, Frozen, OptimConfig, TrainingConfig, setting


class ToyOptimConfig(OptimConfig):
    """Adam from the first step on."""

    optimizer: str = setting("Adam", "optimizer")  # type: ignore[assignment]
    lr0: float = setting(0.02, "initial learning rate")
    nominal_batch_size: Count = setting(1, "gradients are accumulated over this many images")
    ema_decay: float = setting(0.0, "decay of the averaged weights; 0: no average")


class ToyConfig(TrainingConfig):
    """Train the toy network."""

    model: str = setting("toy", "model to train", flags="--model --cfg")
    data: str = setting("", "npz file of images and labels", metavar="NPZ")
    epochs: Count = setting(4, "passes over the training images", on_resume=True)
    channels: Count = setting(8, "channels of the network")
    optim: ToyOptimConfig = setting(ToyOptimConfig, "optimizer")  # type: ignore[assignment]


class ToyValConfig(Frozen):
    """Measure the toy network."""

    weights: str = setting("", "checkpoint to measure", metavar="PT")
    data: str = setting("", "npz file of images and labels", metavar="NPZ")
    batch_size: Count = setting(16, "images per batch")


class ToyExportConfig(Frozen):
    """Write the toy network as TorchScript."""

    weights: str = setting("", "checkpoint to export", metavar="PT")
