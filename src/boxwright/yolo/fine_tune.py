"""Fine-tuning: layers that are frozen, and going on from the training of a checkpoint that still has its optimizer.

Source: docs/spec/yolov5.md, B6, 11 (what the published training takes over, and how it counts epochs). There
`epochs += epoch`, with an epoch that counts from 0, trains one epoch fewer than the printed sentence says; here it is
as many as it says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import is_native
from boxwright.engine.optim import EarlierTraining, Moments, moments_by_name, parameter_roles
from boxwright.errors import UserError
from boxwright.reading import parsing
from boxwright.settings.load import load
from boxwright.terminal import counted
from boxwright.yolo import published_pt
from boxwright.yolo.detection import DetectionModel, Weights
from boxwright.yolo.settings import Freeze, RunConfig
from boxwright.yolo.weights import read_weights, weights_in
from boxwright.yolo.zoo import build_model


def read_training(path: Path) -> tuple[Weights, EarlierTraining]:
    """Read trained weights, not their average, and the training they come from.

    Raises:
        UserError: the file has no optimizer, or not that of its network.
    """
    content = read_archive(path)
    average = weights_in(content, path)
    if not average.epochs_trained:
        raise UserError(_nothing_to_go_on_from(path))
    content = cast(dict[str, Any], content)
    with parsing(path, "checkpoint of a run"):
        weights = weights_in(content | {"ema": None}, path)
        if is_native(content):
            engine = content["engine"]
            fitness, updates, moments = engine["best_fitness"], engine["ema_updates"], _own_moments(content, weights)
        else:
            fitness, updates = content.get("best_fitness"), content.get("updates") or 0
            network, _ = published_pt.find_network(content | {"ema": None}, str(path))
            roles = published_pt.parameter_roles(network)
            shapes = {name: value.shape for name, value in weights.state_dict.items()}
            moments = moments_by_name(content["optimizer"], roles, shapes)
        best = float(fitness) if isinstance(fitness, int | float) else 0.0  # some releases wrote an array
    return weights, EarlierTraining(average.epochs_trained, best, average.state_dict, int(updates), moments)


def _own_moments(content: Mapping[str, Any], weights: Weights) -> Moments:
    """Name what the optimizer of one of our runs kept; of frozen parameters it keeps nothing."""
    model = build_model(weights.spec, weights.names)
    frozen = set(freeze_layers(model, load(RunConfig, content["config"]).freeze))
    roles = {role: [name for name in names if name not in frozen] for role, names in parameter_roles(model).items()}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return moments_by_name(content["engine"]["optimizer"], roles, shapes)


def freeze_layers(model: DetectionModel, freeze: Freeze) -> list[str]:
    """Stop the gradients of layers; batch-norm statistics go on moving, as published.

    Args:
        model: knows how the parameters of its layers are named, and which are its backbone and its predictors.
        freeze: one number N freezes layers 0 to N - 1; several numbers freeze just these; or a word.

    Returns:
        Names of the frozen parameters.

    Raises:
        UserError: nothing is left to train, there is no such layer, or it is not known which layers are the backbone.
    """
    if freeze == "backbone" and not model.num_backbone_layers:
        raise UserError("--freeze backbone: it is not known where the backbone of this model ends; give a number")
    names = [name for name, _ in model.named_parameters()]
    if freeze == "all-but-predictors":
        frozen = [name for name in names if not name.startswith(model.predictor_prefixes)]
    else:
        numbers = (model.num_backbone_layers,) if freeze == "backbone" else freeze
        wrong = [number for number in numbers if not 0 <= number <= len(model.layers)]
        if wrong:
            raise UserError(f"--freeze {wrong[0]}: the layers of this model go from 0 to {len(model.layers) - 1}")
        layers = range(numbers[0]) if len(numbers) == 1 else numbers
        prefixes = tuple(f"{model.layer_prefix}.{layer}." for layer in layers)
        frozen = [name for name in names if prefixes and name.startswith(prefixes)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if len(frozen) == len(names):
        raise UserError(
            f"--freeze {' '.join(map(str, freeze))} freezes every layer; leave at least the last one to train"
        )
    return frozen


def with_epochs_done(config: RunConfig) -> RunConfig:
    """Count the epochs of a run from the beginning of the training that it goes on from, and say how many are done.

    As published: no more epochs than are done come on top of them; more are the length of the whole.
    """
    if not config.weights:
        raise UserError("--fine-tune goes on from the training of a checkpoint: name its last.pt by --weights")
    done = read_weights(config.weights, fallback=config.model).epochs_trained
    if not done:
        raise UserError(_nothing_to_go_on_from(config.weights))
    epochs = config.epochs if config.epochs > done else done + config.epochs
    more = counted(epochs - done, "more epoch")
    print(
        f"{config.weights} has been trained for {counted(done, 'epoch')}. Fine-tuning for {more}, up to epoch {epochs}."
    )
    return config.model_copy(update={"epochs": epochs})


def _nothing_to_go_on_from(path: object) -> str:
    return (
        f"{path} has no optimizer, or no epoch that was finished, so there is no training to go on from: start anew "
        "with --weights alone, or take the last.pt of a run"
    )
