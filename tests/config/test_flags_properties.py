"""Properties of the flag parser that hold for any input."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.errors import UserError

VALUES = st.fixed_dictionaries(
    {},
    optional={
        "data": st.just("d"),
        "seed": st.integers(0, 2**31 - 1),
        "deterministic": st.booleans(),
        "val_fraction": st.floats(0.01, 0.4),
        "image_size": st.integers(32, 999)
        | st.tuples(st.integers(32, 999), st.integers(32, 999)),
        "head_epochs": st.none() | st.integers(1, 10**6),
        "head_learning_rate": st.floats(1e-12, 100),
        "weights": st.lists(
            st.sampled_from(["imagenet", "starter", "a b.h5"]), min_size=1
        ),
        "patience": st.none() | st.integers(1, 99),
        "cache_dir": st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Z", "C"]),
            min_size=1,
        ).map("./{}".format),  # neither ~ nor an address
    },
)


@pytest.fixture(scope="module")
def flagfile(tmp_path_factory):
    """A file that each example overwrites."""
    return tmp_path_factory.mktemp("flags") / "flags.cfg"


@given(VALUES)
@settings(deadline=None)  # writes a file
def test_written_flags_are_parsed_to_the_same_config(flagfile, values):
    if "weights" in values:
        values["weights"] = tuple(values["weights"])
    config = Config(**{"data": "d", "workdir": "w"} | values)
    flagfile.write_bytes(flags.to_flagfile(config).encode())
    assert flags.parse(["", f"--flagfile={flagfile}", "--workdir=w"]) == config


@given(st.text(st.characters(codec="utf-8")))
@settings(deadline=None)
def test_any_flagfile_is_parsed_or_is_a_user_error(flagfile, content):
    assume("--flagfile" not in content and "--help" not in content)
    flagfile.write_bytes(content.encode())
    try:
        flags.parse(["", f"--flagfile={flagfile}", "--workdir=w", "--data=d"])
    except UserError as error:
        assert str(error)
