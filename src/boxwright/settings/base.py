"""Settings: how one is declared, the types of values, and what any training run has. Imports no torch.

A setting is declared once, in its class: name, type, limits, default, meaning and spellings. Flags, `--help`, the yaml
reader, suggestions and docs/settings.md are made from that (settings/flags.py, settings/load.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]

Compat = Literal["faithful", "fixed"]  # faithful: defects that published weights were trained with are kept
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["", "linear", "cosine", "step", "multi-step", "exponential", "plateau", "one-cycle"]


def setting(
    default: Any,
    meaning: str,
    *,
    flags: str = "",
    metavar: str = "",
    bare: str | None = None,
    group: str = "",
    hyp: str = "",
    position: bool = False,
    repeats: bool = False,
    required: bool = False,
    on_resume: bool = False,
) -> Any:
    """Declare a setting, or a group of settings, beside its type.

    Args:
        default: its value if nothing is given; of a group, its class.
        meaning: one phrase for help texts and the reference, starting small, without a full stop; the title of a group.
        flags: every spelling on the command line, the one for messages first; empty: made from the name.
        metavar: placeholder of the value in help texts; empty: made from the type.
        bare: value of a flag that stands alone; None: it needs a value.
        group: title in help texts; empty: that of the nested group, or "the run".
        hyp: keys of published hyper-parameter files that set it.
        position: may be given without a flag, in the order of the class.
        repeats: a flag that is given again adds to a list instead of replacing it.
        required: the verb does nothing without it.
        on_resume: may be changed when a stopped run goes on.
    """
    words = {"flags": flags, "metavar": metavar, "group": group, "hyp": hyp}
    switches = {"position": position, "repeats": repeats, "required": required, "on_resume": on_resume}
    extra: dict[str, Any] = {name: value for name, value in (words | switches).items() if value}
    extra |= {} if bare is None else {"bare": bare}
    if isinstance(default, type):  # made where it is asked for: to show `--help` no validator has to be built
        return Field(default_factory=default, description=meaning, json_schema_extra=extra)
    return Field(default, description=meaning, json_schema_extra=extra)


def as_numbers(value: Any) -> Any:
    """Read `10`, `"0,1,2"` and `["0", "1,2"]` as lists, as flags and yaml files write them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return (value,)
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list | tuple) and any(isinstance(word, str) for word in words):
        return tuple(part for word in words for part in str(word).replace(",", " ").split())
    return words


Numbers = Annotated[tuple[int, ...], BeforeValidator(as_numbers)]
Sides = Annotated[tuple[Count, ...], BeforeValidator(as_numbers)]
Milestones = Annotated[tuple[Count, ...], BeforeValidator(as_numbers)]


def _paths(value: Any) -> Any:
    """Read one path as a list of one; an empty one is none at all."""
    paths = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    return tuple(str(path) if isinstance(path, PurePath) else path for path in paths if path != "")


Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]


def _names(value: Any) -> Any:
    """Read `a`, `"a, b"` and `["a", "b"]` as lists of names."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def _train_batch(value: int) -> int:
    if not value:
        raise ValueError("it is a number of images from 1, or -1 for as many as fit in memory")
    return value


TrainBatch = Annotated[int, Field(ge=-1), AfterValidator(_train_batch)]


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


class OptimConfig(Frozen):
    """Optimizer, learning rate, averaging."""

    optimizer: Literal["SGD", "Adam", "AdamW"] = setting(
        "SGD", "optimizer", flags="--optimizer --optim.optimizer", metavar="SGD|Adam|AdamW"
    )
    lr0: Positive = setting(0.01, "initial learning rate", hyp="lr0")
    lrf: Positive = setting(0.01, "final rate as a fraction of lr0", hyp="lrf")
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
    momentum: Fraction = setting(0.937, "SGD momentum, Adam beta1", hyp="momentum")
    weight_decay: NotNegative = setting(
        0.0005, "weight decay at the nominal batch size; scaled to the real one", hyp="weight_decay"
    )
    warmup_epochs: NotNegative = setting(3.0, "epochs of warm-up", hyp="warmup_epochs")
    warmup_momentum: Fraction = setting(
        0.8, "momentum where the warm-up begins; one-cycle: where the rate is highest", hyp="warmup_momentum"
    )
    warmup_bias_lr: NotNegative = setting(0.1, "learning rate of biases where the warm-up begins", hyp="warmup_bias_lr")
    nominal_batch_size: Count = setting(64, "gradients are accumulated over this many images")
    clip_norm: NotNegative = setting(10.0, "largest norm of the gradient; 0: no limit")
    ema_decay: Fraction = setting(0.9999, "decay of the averaged weights after its ramp")
    ema_tau: Positive = setting(2000.0, "updates over which that decay ramps up")


DEVICE = "cpu, or a GPU as 0 or cuda:0; empty: the first GPU, else the CPU"


def folder_of_runs(default: str) -> Any:
    """Declare the setting `project`, whose default is what the verbs differ in."""
    return setting(default, "folder of runs", metavar="DIR", group="output")


class RunFolder(Frozen):
    """Where a verb writes: a new folder for each run."""

    project: str = folder_of_runs("runs")
    name: str = setting("exp", "folder of this run; counts up where it exists", metavar="NAME", group="output")
    exist_ok: bool = setting(False, "write into an existing run folder", group="output")


class TrainingConfig(RunFolder):
    """What shapes a training run of any system. Written to the run folder and into each checkpoint."""

    model: str = setting("", "model to train; empty: as the weights", flags="--model --cfg", metavar="MODEL")
    weights: str = setting("", "checkpoint to start from; empty: from scratch", metavar="PT")
    data: str = setting("", "data set", metavar="DATA")
    epochs: Count = setting(100, "passes over the training images", on_resume=True)
    batch_size: TrainBatch = setting(
        16, "images per step, over all processes; -1: as many as fit in memory", flags="--batch-size --batch"
    )
    workers: CountOrNone = setting(8, "loader processes, at most one per core", on_resume=True)
    device: str = setting(
        "",
        "cpu, a GPU as 0 or cuda:0, several as 0,1 (one process each); empty: the first GPU, else the CPU",
        metavar="DEVICE",
        on_resume=True,
    )
    nproc: Count = setting(1, "processes of this machine that train together, as with --device cpu", on_resume=True)
    sync_bn: bool = setting(False, "batch norms over the images of all processes")
    precision: Precision = setting("auto", "precision of the network; auto: bf16 where the hardware has it")
    patience: CountOrNone = setting(100, "epochs without a better fitness before the run stops; 0: never")
    seed: int = setting(0, "seed of everything random")
    compat: Compat = setting("faithful", "keep (faithful) or mend (fixed) known defects of the published system")
    nosave: bool = setting(False, "write checkpoints only at the end", group="output")
    noval: bool = setting(
        False, "validate only after the last epoch, and where --patience could end the run", group="output"
    )
    noplots: bool = setting(False, "draw nothing", group="output")
    save_period: Annotated[int, Field(ge=-1)] = setting(
        -1, "keep a checkpoint every N epochs; -1: never", group="output"
    )
    save_epochs: Milestones = setting((), "and after these epochs, counted from 1", group="output")
    save_name: Literal["epoch", "epoch_"] = setting(
        "epoch", "file name prefix of those checkpoints", group="output", metavar="TEXT"
    )
    val_period: Count = setting(1, "validate every N epochs, and after the last", group="output")
    project: str = folder_of_runs("runs/train")
    callbacks: Names = setting(
        (),
        "mlflow, and callbacks of installed packages by the name of their entry point",
        metavar="NAME",
        group="output",
    )
    optim: OptimConfig = setting(OptimConfig, "optimizer")


class InferenceConfig(RunFolder):
    """What verbs that run a network on images have in common."""

    device: str = setting("", DEVICE, metavar="DEVICE")
    half: bool = setting(False, "half precision: bf16 on the CPU, fp16 on a GPU")


class DemoConfig(Frozen):
    """Settings of `boxwright demo`; a system adds its `task`."""

    project: str = setting("runs/demo", "folder of demo runs", metavar="DIR")
    epochs: Count | None = setting(None, "passes over the training images; empty: as fits into a few minutes")
    seed: int = setting(0, "seed of everything random")
    device: str = setting("", DEVICE, metavar="DEVICE")


class Files(Frozen):
    """Files that hold settings of a verb; flags are stronger than they are."""

    config: str = setting("", "yaml of settings of this verb", metavar="YAML", group="files of settings")


class TrainingFiles(Files):
    """Files that hold the settings of a training run."""

    config: str = setting(
        "", "yaml of settings, a run folder or the name of a preset", metavar="YAML", group="files of settings"
    )
    resume: str | None = setting(
        None,
        "go on with a stopped run: its last.pt or folder; alone: the newest run",
        metavar="PT",
        bare="",
        group="files of settings",
    )


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of one system."""

    settings: type[Frozen]
    function: str  # "module:function" that takes the settings; imported when it is called
    about: str  # what it does, for its help page
    files: type[Files] | None = Files  # kinds of settings files it reads; None: none
    load: str = ""  # "module:function" that makes settings of (given, files); empty: files are no more than --config
