"""Settings: merged once, frozen, every mistake listed by dotted path and place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from boxwright.errors import UserError
from boxwright.settings.flags import setting_names
from boxwright.settings.load import Setting, dump, dump_yaml, load
from boxwright.yolo.hyp import load_run
from boxwright.yolo.settings import PredictConfig, RunConfig, ValConfig


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistakes(*args: object, **kwargs: str) -> str:
    with pytest.raises(UserError) as caught:
        load_run(RunConfig, *args, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


def test_nothing_given_is_the_schema() -> None:
    assert load(RunConfig) == RunConfig()


def test_flags_beat_config_beat_hyp(tmp_path: Path) -> None:
    hyp = write(tmp_path / "hyp.yaml", "lr0: 0.1\nbox: 0.2\nmomentum: 0.5\n")
    config = write(tmp_path / "config.yaml", "epochs: 7\noptim:\n  lr0: 0.3\nloss.box: 0.4\n")
    merged = load_run(RunConfig, {"optim.lr0": "0.5"}, hyp=hyp, config=config)
    assert (merged.optim.lr0, merged.loss.box, merged.optim.momentum, merged.epochs) == (0.5, 0.4, 0.5, 7)
    assert merged.optim.lrf == RunConfig().optim.lrf


def test_nested_and_dotted_settings_are_the_same() -> None:
    assert load(RunConfig, {"optim": {"lr0": 0.2}}) == load(RunConfig, {"optim.lr0": 0.2})


def test_a_run_folder_is_a_config(tmp_path: Path) -> None:
    wished = load(RunConfig, {"epochs": 3, "freeze": [0, 1], "loss.box": 0.07, "data": "Straße/データ.yaml"})
    write(tmp_path / "config.yaml", dump_yaml(wished))
    assert load(RunConfig, config=str(tmp_path)) == wished


@pytest.mark.parametrize("kind", [RunConfig, ValConfig, PredictConfig])
def test_dump_is_plain_and_comes_back(kind: type[RunConfig]) -> None:
    plain = dump(kind())
    assert load(kind, plain) == kind()
    assert set(setting_names(kind)) >= {name for name, value in plain.items() if not isinstance(value, dict)}


@given(st.floats(1e-6, 1.0), st.integers(1, 10**6), st.lists(st.integers(0, 40), max_size=5))
def test_any_values_survive_the_yaml(lr0: float, epochs: int, freeze: list[int]) -> None:
    import yaml

    wished = load(RunConfig, {"optim.lr0": lr0, "epochs": epochs, "freeze": freeze})
    assert load(RunConfig, yaml.safe_load(dump_yaml(wished))) == wished


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        RunConfig().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given_value", "kept"),
    [("10", (10,)), (10, (10,)), (["0", "1", "2"], (0, 1, 2)), ("0,1,2", (0, 1, 2)), ([3], (3,)), ([], ())],
)
def test_lists_of_numbers_as_people_write_them(given_value: object, kept: tuple[int, ...]) -> None:
    assert load(RunConfig, {"freeze": given_value}).freeze == kept


def test_small_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    assert load(RunConfig, config=write(tmp_path / "c.yaml", "optim:\n  lr0: 1e-5\n")).optim.lr0 == 1e-5


def test_every_mistake_is_listed_with_its_place(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "epochs: 3\noptim:\n  momentum: 2\n  lr00: 1\n")
    text = mistakes({"imgsz": Setting("big", "--imgsz"), "precision": Setting("fp8", "--precision")}, config=config)
    assert "4 settings are wrong" in text
    assert f"optim.momentum ({config}:3): should be less than or equal to 1, got 2" in text
    assert f"optim.lr00 ({config}:4): no such setting; did you mean optim.lr0?" in text
    assert "imgsz (--imgsz): should be a valid integer, got 'big'" in text
    assert "precision (--precision): should be 'auto', 'fp32', 'tf32', 'bf16' or 'fp16', got 'fp8'" in text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epoch", "epochs"),
        ("batch", "batch_size"),
        ("img_size", "imgsz"),
        ("cfg", "model"),
        ("lr0", "optim.lr0"),
        ("giou", "loss.box"),
        ("optim.momentm", "optim.momentum"),
        ("loss.lr0", "optim.lr0"),
        ("mixupp", "augment.mixup"),
    ],
)
def test_did_you_mean(typed: str, meant: str) -> None:
    assert f"did you mean {meant}?" in mistakes({typed: 1})


def test_a_group_is_not_a_setting() -> None:
    assert "group of settings, such as augment.hsv_h" in mistakes({"augment": 3})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "", None, "yes"])
def test_a_rate_is_a_finite_number_above_zero(value: object) -> None:
    assert "optim.lr0" in mistakes({"optim.lr0": value})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 3\nepochs: 4\n", ":2: epochs is set a second time"),
        ("- epochs\n", ":1: settings are lines"),
        ("epochs: [1\n", "not valid yaml"),
        ("epochs: !!python/object/apply:os.system ['touch hacked']\n", ":1: not valid yaml"),
        ("? [a]\n: 1\n", ":1: the name of a setting is a word"),
        ("a: \x00\n", "not valid yaml"),
    ],
)
def test_bad_yaml_is_one_sentence_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "bad.yaml", text)
    assert says in mistakes(config=config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml"]


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xff\x00")
    assert "not UTF-8 text" in mistakes(config=str(tmp_path / "c.yaml"))


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load(RunConfig, config=write(tmp_path / "c.yaml", "# nothing\n")) == RunConfig()


def test_a_missing_config_names_the_file(tmp_path: Path) -> None:
    assert str(tmp_path / "config.yaml") in mistakes(config=str(tmp_path))
    assert "nowhere.yaml" in mistakes(config="nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("project: /somewhere/else", "project '/somewhere/else' lies neither"),
        ("project: ../..", "project '../..' lies neither"),
        ("name: ../x", "name is the name of a folder below the project"),
        ("name: /x", "name is the name of a folder below the project"),
        ("best_weight: /somewhere/else.pt", "best_weight '/somewhere/else.pt' lies neither"),
    ],
)
def test_a_settings_file_does_not_say_where_to_write_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, refused: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    file = write(tmp_path / "files" / "config.yaml", text)
    assert f"{file}:1: {refused}" in mistakes(config=file)
    key = text.partition(":")[0]
    typed = load(RunConfig, {key: text.partition(": ")[2]}, config=file)  # what the user types may lead anywhere
    assert getattr(typed, key) == text.partition(": ")[2]


def test_places_near_the_file_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "else" / "runs" / "exp"
    for project in ("runs/mine", str(run.parent), str(run / "below")):  # the second is the project of the run itself
        file = write(run / "config.yaml", f"project: {project}")
        assert load(RunConfig, config=file).project == project


def test_a_name_that_is_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work" / "exp").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "work")
    file = write(tmp_path / "work" / "config.yaml", "project: .\nname: exp")
    assert "name 'exp' is a link that leads out of ." in mistakes(config=file)
    assert load(RunConfig, config=write(Path(file), "project: .\nname: exp2")).name == "exp2"
