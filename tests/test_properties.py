"""What must hold for any input of the parsers and of the draw."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_ft.config import flags
from keras_ft.config.config import Config
from keras_ft.data import sources
from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.data.splits import assign_splits, limit_train
from keras_ft.errors import UserError
from keras_ft.system import files

# Any text that a file can hold, names that are no UTF-8 among it.
TEXT = st.text(st.characters(codec="utf-8") | st.characters(categories=["Cs"]))
FIELD = TEXT.filter(lambda text: _survives(text))


def _survives(text: str) -> bool:
    """Whether text comes back from a file: surrogates must be escaped bytes."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return content.decode("utf-8", "surrogateescape") == text


def write(content: bytes) -> str:
    path = Path(tempfile.mkdtemp()) / "table.csv"
    path.write_bytes(content)
    return str(path)


ROWS = st.lists(
    st.tuples(
        FIELD.filter(bool),
        FIELD,
        st.sampled_from(["", "train", "val", "test", "skipped", "unused"]),
        FIELD,
    )
)


@given(ROWS)
def test_a_table_that_is_written_is_read_again(rows):
    path = Path(write(b""))
    files.write_csv(path, [("path", "label", "split", "group"), *rows])
    assert [row for _, row in sources.read_table(str(path))] == rows


@given(st.binary() | TEXT.filter(_survives).map(lambda t: t.encode(errors="ignore")))
@settings(max_examples=300)
def test_any_file_is_a_table_or_one_line(content):
    for begin in (b"", b"path,label\n", b"path,label,split,group\n"):
        path = write(begin + content)
        try:
            for line, (name, *_) in sources.read_table(path):
                assert line >= 1
                assert name
        except UserError as error:
            assert path in str(error)


FLAGS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.just("d"),
        "seed": st.integers(0, 2**31 - 1),
        "deterministic": st.booleans(),
        "val_fraction": st.floats(0.01, 0.4),
        "head_epochs": st.none() | st.integers(1, 10**6),
        "head_learning_rate": st.floats(1e-12, 100),
        "weights": st.lists(
            st.sampled_from(["imagenet", "starter", "a b.h5"]), min_size=1
        ),
        "patience": st.none() | st.integers(1, 99),
        "cache_dir": st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Z", "C"]),
            min_size=1,
        ),
    },
)


@given(FLAGS)
def test_flags_that_are_written_are_read_again(values):
    if "weights" in values:
        values["weights"] = tuple(values["weights"])
    config = Config(**{"data": "d", "workdir": "w"} | values)
    path = write(flags.to_flagfile(config).encode())
    assert flags.parse(["", f"--flagfile={path}", "--workdir=w"]) == config


@given(st.text(st.characters(codec="utf-8")))
def test_any_flagfile_is_a_config_or_one_line(content):
    assume("--flagfile" not in content and "--help" not in content)
    path = write(content.encode())
    try:
        flags.parse(["", f"--flagfile={path}", "--workdir=w", "--data=d"])
    except UserError as error:
        assert str(error)


@st.composite
def tables(draw):
    count = draw(st.integers(6, 60))
    few = st.sampled_from(["", "", "", "p", "q", "r"])
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    groups = draw(st.lists(few, min_size=count, max_size=count))
    splits = draw(
        st.just([""] * count)
        | st.lists(st.sampled_from(["", *SPLIT_NAMES]), min_size=count, max_size=count)
    )
    names = np.array([str(i) for i in range(count)], object)
    return Examples(
        names,
        names,
        np.array(labels),
        np.array(splits, object),
        np.array(groups, object),
        ("a", "b", "c"),
    )


@given(tables(), st.floats(0.01, 0.49), st.floats(0.01, 0.49), st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_a_draw_keeps_what_is_given_and_groups_together(examples, val, test, seed):
    twins = np.arange(len(examples))
    twins[1] = 0
    try:
        splits = assign_splits(examples, twins, val, test, seed).splits
    except UserError:
        return  # a class has too few
    assert set(splits) == set(SPLIT_NAMES)
    fixed = np.isin(examples.splits, ["val", "test"])
    np.testing.assert_array_equal(splits[fixed], examples.splits[fixed])
    assert set(examples.labels[splits == "train"]) == {0, 1, 2}
    if not any(examples.splits):
        for group in ("p", "q", "r"):
            assert len(set(splits[examples.groups == group])) <= 1
        assert splits[0] == splits[1]
        for name in SPLIT_NAMES:
            assert set(examples.labels[splits == name]) == {0, 1, 2}
    limited = limit_train(examples.with_splits(splits), 2, seed).splits
    assert np.bincount(examples.labels[limited == "train"]).max() <= 2
