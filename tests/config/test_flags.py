import dataclasses
import importlib.metadata
import re

import pytest
from helpers import ROOT

from keras_ft.config import flags
from keras_ft.config.settings import SECTIONS, Config
from keras_ft.errors import UserError

CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))


def parse(*args):
    return flags.parse(["run.py", *args])


def write(tmp_path, text):
    path = tmp_path / "some.cfg"
    path.write_text(text)
    return f"--flagfile={path}"


def test_every_field_is_a_flag_of_its_type(tmp_path):
    config = parse(
        "--workdir=w",
        "--data=d",
        "--weights=a.h5,starter",
        "--nodeterministic",
        "--tfds_download",
        "--image_size=64",
        "--dropout=0.5",
    )
    assert config == Config(
        workdir="w",
        data="d",
        weights=("a.h5", "starter"),
        tfds_download=True,
        image_size=64,
        dropout=0.5,
    )


@pytest.mark.parametrize(
    ("text", "same", "written"),
    [("96", 96, "96"), ("96x96", "96", "96"), ("96x128", (96, 128), "96x128")],
)
def test_an_image_size_is_one_number_or_two(tmp_path, text, same, written):
    config = parse("--workdir=w", "--data=d", f"--image_size={text}")
    assert config == Config(workdir="w", data="d", image_size=same)
    assert flags.differences(config, config.replace(image_size=same)) == {}
    assert f"--image_size={written}\n" in flags.to_flagfile(config)
    assert parse("--workdir=w", write(tmp_path, flags.to_flagfile(config))) == config


def test_later_flags_win_over_the_flagfile(tmp_path):
    flagfile = write(tmp_path, "# note\n--workdir=w\n--data=d\n--batch_size=4\n")
    assert parse(flagfile, "--batch_size=8").data.batch_size == 8


def test_flagfile_repeats_the_run_elsewhere(tmp_path):
    config = Config(
        workdir="here",
        data="a folder/ü",
        weights=("a,b.h5", "starter"),
        deterministic=True,
        unfreeze="from:conv5",
        head_learning_rate=3e-5,
    )
    text = flags.to_flagfile(config)
    assert "workdir" not in text
    flagfile = write(tmp_path, text)
    assert parse(flagfile, "--workdir=here") == config
    path = flagfile.removeprefix("--flagfile=")
    assert flags.load_flagfile(path, workdir="here") == config


def test_differences_name_flags_that_change_the_result():
    old = Config(workdir="a", data="d", cache_dir="x", dropout=0.2)
    new = Config(workdir="b", data="d", cache_dir="y", dropout=0.5)
    assert flags.differences(old, new) == {"dropout": "--dropout was 0.2, now 0.5"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs=3", "Every argument is a flag.*Received: epochs=3"),
        ("--head_epoch=3", "no flag --head_epoch; give --head_epochs"),
        ("--head_epochs=three", "head_epochs.*three"),
        ("--head_epochs 3", "no flag --head_epochs 3; give --head_epochs."),
        ("--nomirror=true", "--nomirror takes no value. Received: --nomirror=true"),
        ("--mirror=yes", "--mirror=yes: must be true or false"),
        ("--learning_rate=1", "give --head_learning_rate or --finetune_learning_rate"),
        ("--lr=1", "give --head_learning_rate or --finetune_learning_rate"),
        ("--epochs=1", "give --head_epochs or --finetune_epochs or --average_epochs"),
        ("--backbone=resnet18", "Received: resnet18; give hub:resnet_18_imagenet"),
        ("--backbone=ResNet50-v2", "Received: ResNet50-v2; give resnet50_v2"),
        ("--export_formats=tflite", "Received: tflite; give litert"),
        ("--seed=-1", "--seed must be at least 0. Received: -1"),
    ],
)
def test_mistakes_in_a_flagfile_are_one_line(tmp_path, line, message):
    flagfile = write(tmp_path, f"--workdir=w\n--data=d\n{line}\n")
    with pytest.raises(UserError, match=message) as error:
        parse(flagfile)
    assert "\n" not in str(error.value)


def test_missing_flagfile_is_an_error():
    with pytest.raises(UserError, match="nowhere.cfg"):
        parse("--flagfile=nowhere.cfg")


def test_help_names_every_flag_with_its_default():
    text = flags.help_text()
    for section in SECTIONS.values():
        assert section.__doc__ in text
        for field in dataclasses.fields(section):
            assert f"  --{field.name}" in text
    assert "--weights=auto" in text
    assert re.search(r"--top_k=3\n.*\[predict\]\n", text)
    assert parse("--help") == text


def test_the_version_needs_no_other_flag():
    installed = importlib.metadata.version("keras")
    assert re.fullmatch(
        rf"keras_ft .+, tensorflow .+, keras {re.escape(installed)}", parse("--version")
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_is_valid(path):
    if "--backbone=hub:" in path.read_text():
        pytest.importorskip("keras_hub", reason="needs the extra hub")
    config = parse(f"--flagfile={path}")
    assert config.run.workdir == f"runs/{path.stem}"
