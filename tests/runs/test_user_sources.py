from pathlib import Path

import pytest

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import user_code
from keras_ft.runs.user_sources import (
    check_same_sources,
    hash_sources,
    import_sources,
)


def test_sources_are_those_of_flags_that_affect_the_result(write_module):
    write_module("mine", "def loss(): pass\ndef call(): pass")
    config = Config(
        data="photos", workdir="run", loss="py:mine:loss", callbacks="py:mine:call"
    )
    assert hash_sources(config) == {"loss": user_code.source_of("py:mine:loss")}
    missing = config.replace(callbacks="py:mine:other")
    with pytest.raises(UserError, match="--callbacks=py:mine:other"):
        import_sources(missing)


def test_a_run_is_resumed_with_the_same_sources_only():
    check_same_sources(Path("run"), {"loss": "a"}, {"loss": "a"})
    with pytest.raises(UserError, match="The code of --loss has changed .* in run"):
        check_same_sources(
            Path("run"), {"loss": "a", "augment": "b"}, {"loss": "c", "augment": "b"}
        )
