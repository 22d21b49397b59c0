"""Settings: how one is declared, the types of values, and what any training run has. Imports no torch.

A setting is declared once, in its class: name, type, limits, default, meaning and spellings. Flags, `--help`, the yaml
reader, suggestions and docs/settings.md are made from that (settings/flags.py, settings/load.py).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypedDict, Unpack, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]

Compat = Literal["faithful", "fixed"]  # faithful: defects that published weights were trained with are kept
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Schedule = Literal["", "linear", "cosine", "step", "multi-step", "exponential", "plateau", "one-cycle"]


class Shown(TypedDict, total=False):
    """How the command line and the reference show a setting, where its name and type do not say it."""

    flags: str  # every spelling, the one for messages first
    metavar: str  # placeholder of the value
    bare: str  # value of a flag that stands alone; absent: it needs a value
    group: str  # title in help texts; absent: that of the nested group, or "the run"
    position: bool  # may be given without a flag, in the order of the class
    repeats: bool  # a flag that is given again adds to a list, or to a list of lists, instead of replacing it
    required: bool  # the verb does nothing without it
    on_resume: bool  # may be changed when a stopped run goes on


def setting(default: Any, meaning: str, **shown: Unpack[Shown]) -> Any:
    """Make a setting, or a group of settings, beside its type.

    Args:
        default: its value if nothing is given; of a group, its class.
        meaning: one phrase for help texts and the reference, starting small, without a full stop; the title of a group.
        shown: see `Shown`.
    """
    # A group is made where it is asked for: to show `--help` no validator has to be built.
    made: dict[str, Any] = {"default_factory" if isinstance(default, type) else "default": default}
    return Field(**made, description=meaning, json_schema_extra=cast("dict[str, Any]", shown))


output = partial(setting, group="output")
of_file = partial(setting, group="files of settings")
folder_of_runs = partial(output, meaning="folder of runs")  # verbs differ in the default


def as_list(value: Any) -> Any:
    """Read `10`, `"0,1,2"`, `"a, b"` and `["0", "1,2"]` as lists, as flags and yaml files write them."""
    if isinstance(value, bool):  # an int for Python, but no number that anybody means
        return value
    if isinstance(value, int | float):
        return (value,)
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list | tuple) and any(isinstance(word, str) for word in words):
        return tuple(part for word in words for part in str(word).replace(",", " ").split())
    return words


def _as_paths(value: Any) -> Any:
    """Read one path as a list of one; an empty one is none at all."""
    paths = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    return tuple(str(path) if isinstance(path, PurePath) else path for path in paths if path != "")


def _not_zero(value: int) -> int:
    if not value:
        raise ValueError("it is a number of images from 1, or -1 for as many as fit in memory")
    return value


def _as_shapes(value: Any) -> Any:
    """Read one list of sides as a list of one, as most people write it."""
    items = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    return tuple(items) if items and all(isinstance(item, list | tuple) for item in items) else (value,)


Sides = Annotated[tuple[Count, ...], BeforeValidator(as_list)]
Milestones = Sides
Shapes = Annotated[tuple[Sides, ...], Field(min_length=1), BeforeValidator(_as_shapes)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_list)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_as_paths)]
TrainBatch = Annotated[int, Field(ge=-1), AfterValidator(_not_zero)]


class Frozen(BaseModel):
    """A group of settings: immutable, and a key that is not here is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # of 30 classes a command needs one: .05 of the .25 s that `train --help` took
    )

    def needs(self) -> tuple[str, ...]:
        """Return the settings that must be given, as the others are; "a or b" is one of two."""
        return tuple(
            name
            for name, field in type(self).model_fields.items()
            if cast("Shown", field.json_schema_extra or {}).get("required", False)
        )


# Limits of reading files: their defaults. They go through the environment, where loader processes and ranks find them.
LIMITS = {
    "max_pixels": 100_000_000,  # with what decoders need beside them, less than 1 GB
    "loader_timeout": 600,
}


def limit(name: str) -> int:
    """Return a limit of reading that the settings of this process, or of the one that started it, have set."""
    return int(os.environ.get(f"BOXWRIGHT_{name.upper()}", LIMITS[name]))


def set_limits(config: "Frozen") -> None:
    """Make the limits that a verb's settings have hold in this process and those that it starts."""
    for name in LIMITS.keys() & type(config).model_fields.keys():
        os.environ[f"BOXWRIGHT_{name.upper()}"] = str(getattr(config, name))


Pixels = Annotated[int, Field(ge=100, le=10**10)]
pixel_limit = partial(setting, LIMITS["max_pixels"], "most pixels of an image; a larger one is left out")
Seconds = Annotated[int, Field(ge=0, le=10**6)]
loader_limit = partial(
    setting, LIMITS["loader_timeout"], "seconds after which a loader process that gives nothing is ended; 0: never"
)


class OptimConfig(Frozen):
    """Optimizer, learning rate, averaging."""

    optimizer: Literal["SGD", "Adam", "AdamW"] = setting("SGD", "optimizer", flags="--optimizer --optim.optimizer")
    lr0: Positive = setting(0.01, "initial learning rate")
    lrf: Positive = setting(0.01, "final rate as a fraction of lr0")
    cos_lr: bool = setting(False, "cosine instead of linear decay", flags="--cos-lr --optim.cos_lr")
    schedule: Schedule = setting("", "how the rate falls; empty: as --cos-lr and the system say")
    milestones: Milestones = setting((), "multi-step: the rate falls where these epochs begin, counted from 0")
    step_epochs: Count = setting(30, "step: epochs between two falls of the rate")
    gamma: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(
        0.0, "factor of a fall; 0: 0.1, or for exponential what ends at lrf"
    )
    plateau_patience: CountOrNone = setting(10, "plateau: validations without a better fitness before a fall")
    one_cycle_start: Annotated[float, Field(gt=0.0, le=1.0)] = setting(
        0.04, "one-cycle: first rate as a fraction of lr0"
    )
    one_cycle_rise: Annotated[float, Field(gt=0.0, lt=1.0)] = setting(
        0.3, "one-cycle: share of the run in which the rate rises"
    )
    momentum: Fraction = setting(0.937, "SGD momentum, Adam beta1")
    weight_decay: NotNegative = setting(0.0005, "weight decay at the nominal batch size; scaled to the real one")
    warmup_epochs: NotNegative = setting(3.0, "epochs of warm-up")
    warmup_momentum: Fraction = setting(0.8, "momentum where the warm-up begins; one-cycle: where the rate is highest")
    warmup_bias_lr: NotNegative = setting(0.1, "learning rate of biases where the warm-up begins")
    nominal_batch_size: Count = setting(64, "gradients are accumulated over this many images")
    clip_norm: NotNegative = setting(10.0, "largest norm of the gradient; 0: no limit")
    ema_decay: Fraction = setting(0.9999, "decay of the averaged weights after its ramp")
    ema_tau: Positive = setting(2000.0, "updates over which that decay ramps up")


DEVICE = "cpu, a GPU as 0 or cuda:0, or mps (a Mac's); empty: the first GPU, else the CPU"


class RunFolder(Frozen):
    """Where a verb writes: a new folder for each run."""

    project: str = folder_of_runs("runs")
    name: str = output("exp", "folder of this run; counts up where it exists")
    exist_ok: bool = output(False, "write into an existing run folder")


class TrainingConfig(RunFolder):
    """What shapes a training run of any system. Written to the run folder and into each checkpoint."""

    model: str = setting("", "model to train; empty: as the weights")
    weights: str = setting("", "checkpoint to start from; empty: from scratch")
    data: str = setting("", "data set", on_resume=True)
    epochs: Count = setting(100, "passes over the training images", on_resume=True)
    batch_size: TrainBatch = setting(16, "images per step, over all processes; -1: as many as fit in memory")
    workers: CountOrNone = setting(8, "loader processes, at most one per core", on_resume=True)
    loader_timeout: Seconds = loader_limit(on_resume=True)
    max_pixels: Pixels = pixel_limit()
    device: str = setting(
        "",
        "cpu, a GPU as 0 or cuda:0, several as 0,1 (one process each); empty: the first GPU, else the CPU",
        on_resume=True,
    )
    nproc: Count = setting(1, "processes of this machine that train together, as with --device cpu", on_resume=True)
    sync_bn: bool = setting(False, "batch norms over the images of all processes")
    precision: Precision = setting(
        "auto",
        "precision of the network; auto: bf16 where the hardware has it; tf32: fp32 whose products a GPU rounds",
    )
    patience: CountOrNone = setting(100, "epochs without a better fitness before the run stops; 0: never")
    deterministic: bool = setting(
        False, "on a GPU, kernels that give the same bits each time, which an exact resume needs; slower"
    )
    cuda_graph: bool = setting(False, "on one GPU, record forward and backward pass once and replay them (CUDA graph)")
    seed: int = setting(0, "seed of everything random")
    compat: Compat = setting("faithful", "keep (faithful) or mend (fixed) known defects of the published system")
    nosave: bool = output(False, "write checkpoints only at the end")
    noval: bool = output(False, "validate only after the last epoch, and where --patience could end the run")
    noplots: bool = output(False, "draw nothing")
    save_period: Annotated[int, Field(ge=-1)] = output(-1, "keep a checkpoint every N epochs; -1: never")
    save_epochs: Milestones = output((), "and after these epochs, counted from 1")
    save_half: bool = output(False, "write best.pt and those checkpoints in half precision, half as large")
    save_best_only: bool = output(False, "keep best.pt alone: a run that is done leaves no last.pt to go on from")
    best_weight: str = output("", "write the best weights to this file, too", metavar="PT", on_resume=True)
    save_name: Literal["epoch", "epoch_"] = output("epoch", "file name prefix of those checkpoints", metavar="TEXT")
    val_period: Count = output(1, "validate every N epochs, and after the last")
    log_period: Count = output(
        20, "steps between two entries of log.log and events.jsonl, for which a GPU is waited for"
    )
    project: str = folder_of_runs("runs/train")
    callbacks: Names = output(
        (), "mlflow, wandb, clearml, comet, and those of installed packages by the name of their entry point"
    )
    optim: OptimConfig = setting(OptimConfig, "optimizer")

    def needs(self) -> tuple[str, ...]:
        return ("data", "model or weights")


class InferenceConfig(RunFolder):
    """What verbs that run a network on images have in common."""

    device: str = setting("", DEVICE)
    half: bool = setting(False, "half precision: bf16 on the CPU, fp16 on a GPU")
    max_pixels: Pixels = pixel_limit()


class DemoConfig(Frozen):
    """Settings of `boxwright demo`; a system adds its `task`."""

    project: str = setting("runs/demo", "folder of demo runs")
    epochs: Count | None = setting(None, "passes over the training images; empty: as fits into a few minutes")
    seed: int = setting(0, "seed of everything random")
    device: str = setting("", DEVICE)


class Files(Frozen):
    """Files that hold settings of a verb; flags are stronger than they are."""

    config: str = of_file("", "yaml of settings of this verb")


class TrainingFiles(Files):
    """Files that hold the settings of a training run."""

    config: str = of_file("", "yaml of settings, a run folder or the name of a preset")
    resume: str | None = of_file(
        None, "go on with a stopped run: its last.pt or folder; alone: the newest run", bare=""
    )


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of one system. The docstring of its settings is the text of its help page."""

    settings: type[Frozen]
    function: str  # "module:function" that takes the settings; imported when it is called
    files: type[Files] | None = Files  # kinds of settings files it reads; None: none
    load: str = ""  # "module:function" of (kind, given, files); empty: files are no more than --config
    adopt: str = ""  # "module:function" of (file, given): settings that go on with another tool's run; empty: not one
    check: str = ""  # "module:function" of the settings: lists what is wrong, without torch, where that can be seen

    @property
    def about(self) -> str:
        """Return what it does, for its help page."""
        return " ".join((self.settings.__doc__ or "").split())
