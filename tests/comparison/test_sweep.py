import os

import pytest

from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.comparison import sweep
from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.errors import UserError


def plan(text, *args):
    given = ["--mode=compare", "--workdir=w", "--data=photos", f"--sweep={text}"]
    return sweep.plan_runs(flags.parse(["", *given, *args]))


def test_a_sweep_is_a_grid_with_the_first_seed_first():
    runs = plan("unfreeze=none|all; dropout=0|0.5", "--seeds=2", "--seed=7")
    assert [run.workdir.name for run in runs] == [
        f"unfreeze={unfreeze},dropout={dropout},seed={seed}"
        for seed in (7, 8)
        for unfreeze in ("none", "all")
        for dropout in ("0", "0.5")
    ]
    config = runs[-1].config
    assert (config.train.unfreeze, config.model.dropout) == ("all", 0.5)
    assert (config.run.mode, config.run.seed) == ("train", 8)
    assert config.data.data == "w/splits.csv"
    assert config.run.workdir == "w/runs/unfreeze=all,dropout=0.5,seed=8"


def test_values_of_swept_flags_are_read_as_on_the_command_line():
    [first, second] = plan(
        "weights=starter|imagenet,starter;deterministic=true;patience=auto",
        "--seeds=1",
        "--patience=4",
    )
    assert first.config.model.weights == ("starter",)
    assert second.config.model.weights == ("imagenet", "starter")
    assert second.config.run.deterministic is True
    assert second.config.selection.patience is None


def test_each_run_finds_its_own_image_size():
    runs = plan("backbone=resnet50|xception", "--seeds=1")
    assert {run.config.data.image_size for run in runs} == {None}
    [fixed, free] = plan("image_size=96|auto", "--seeds=1")
    assert (fixed.config.data.image_size, free.config.data.image_size) == (
        ImageSize(96, 96),
        None,
    )


def test_other_flags_apply_to_every_run():
    runs = plan("unfreeze=none|all", "--batch_size=5", "--cache_dir=c", "--overwrite")
    assert len(runs) == 6
    assert {run.config.data.batch_size for run in runs} == {5}
    assert {run.config.data.cache_dir for run in runs} == {"c"}
    # It concerns the comparison.
    assert {run.config.run.overwrite for run in runs} == {False}


def test_paths_may_contain_commas():
    config = Config(
        mode="compare",
        data="photos",
        workdir="w,1",
        weights=("a,b.h5", "starter"),
        sweep="dropout=0.1|0.2;batch_norm=auto",
    )
    for run in sweep.plan_runs(config):
        # A path means the same file in any folder.
        assert run.config.model.weights == (os.path.abspath("a,b.h5"), "starter")
        assert run.config.data.data == "w,1/splits.csv"
    [run, *_] = plan('weights="a,b.h5",starter')
    assert run.config.model.weights == (os.path.abspath("a,b.h5"), "starter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unfreeze", "flag=value|value.*Received: unfreeze$"),
        ("unfreeze=all;", "flag=value|value"),
        ("=all", "flag=value|value"),
        ("colour=red|blue", "no flag --colour"),
        ("mode=train|check", "Received: mode"),
        ("data=a|b", "Received: data"),
        ("val_fraction=0.1|0.2", "Received: val_fraction"),
        ("tfds_data_dir=a|b", "Received: tfds_data_dir"),
        ("seed=1|2", "Received: seed"),
        ("seeds=1|2", "Received: seeds"),
        ("monitor=val_loss|val_accuracy", "Received: monitor"),
        ("cache_dir=a|b", "Received: cache_dir"),
        ("top_k=1|2", "Received: top_k"),
        ("unfreeze=all|none|all", "Received: unfreeze=all twice"),
        ("unfreeze=all;unfreeze=none", "Received: unfreeze twice"),
        ("unfreeze=all|", "Received: unfreeze=all|"),
        ("unfreeze=", "empty"),
        ("dropout=0.1|1e-1", "dropout=0.1 and dropout=1e-1, which are equal"),
        ("image_size=224|224x224", "which are equal"),
        ("weights=runs/a|./runs/a", "which are equal"),
        ("unfreeze=all|from:conv9", "^--sweep, unfreeze=from:conv9: .* conv1, conv2"),
        ("batch_size=8|many", "^--sweep, batch_size=many: "),
        (
            "weights=starter|none;head_epochs=3|0",
            "^--sweep, weights=none, head_epochs=3: ",
        ),
    ],
)
def test_errors_name_the_mistake_in_the_sweep(text, message):
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        plan(text)


def test_sweep_and_mode_belong_together():
    with pytest.raises(UserError, match="needs --sweep"):
        flags.parse(["", "--mode=compare", "--workdir=w", "--data=photos"])
    with pytest.raises(UserError, match="needs --mode=compare"):
        flags.parse(["", "--workdir=w", "--data=photos", "--sweep=unfreeze=all"])


def test_names_of_plain_values_are_readable():
    setting = (("unfreeze", "from:conv5"), ("weights", "imagenet,starter"))
    assert sweep.make_name(setting) == "unfreeze=from_conv5,weights=imagenet,starter"


def test_different_settings_have_different_names():
    values = ["a/b.h5", "a_b.h5", "a:b.h5", "a b.h5", "ä_b.h5", "x" * 300, "x" * 301]
    names = {sweep.make_name((("weights", value),)) for value in values}
    assert len(names) == len(values)
    assert all("/" not in name and len(f"{name}.log") < 255 for name in names)
