"""What one of several workers does in `test_workers.py`.

    python worker_script.py FOLDER_OF_TESTS INDEX FOLDER RUNS

RUNS is a JSON list of flags, each a list of one value or one value per worker. Relative
paths are below FOLDER/worker-INDEX. Writes the message of each run's UserError, or an
empty string, to FOLDER/errors-INDEX.json, and that of Keras alone to FOLDER/keras.json.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = sys.argv[1:2]
INDEX, FOLDER = int(sys.argv[2]), Path(sys.argv[3])

import helpers  # noqa: E402

from keras_ft.config.settings import Config  # noqa: E402
from keras_ft.errors import UserError  # noqa: E402
from keras_ft.host import console, files  # noqa: E402
from keras_ft.jobs.train import train  # noqa: E402


def forbid_writing() -> None:
    """Makes writing a file an error, but for those of the cache."""
    replacing = files.replacing

    def check(path):
        assert "cache" in str(path), f"worker {INDEX} writes {path}"
        return replacing(path)

    files.replacing = check


def fit_with_keras_alone(mended: str) -> str:
    """The error of Keras's `fit` with several workers; empty if there is none."""
    import keras
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()

    class Model(keras.Model):
        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            if mended != "build":
                super()._maybe_symbolic_build(iterator, data_batch)

        def train_step(self, data):
            logs = super().train_step(data)
            if mended != "logs":
                return logs
            return {name: keras.ops.reshape(v, (1,)) for name, v in logs.items()}

    image = keras.Input([2])
    model = Model(image, keras.layers.Dense(1)(image))
    model.compile("sgd", "mse", jit_compile=False)
    rows = tf.data.Dataset.from_tensor_slices((tf.ones([2, 2]), tf.ones([2, 1])))
    data = strategy.distribute_datasets_from_function(lambda _: rows.batch(1))
    try:
        model.fit(data, steps_per_epoch=1, verbose=0)
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    console.configure_logging()
    os.chdir(FOLDER / f"worker-{INDEX}")
    helpers.leave_out_export(setattr)
    if INDEX:
        forbid_writing()
    errors = []
    for run in json.loads(sys.argv[4]):
        flags = {name: values[INDEX % len(values)] for name, values in run.items()}
        flags["weights"] = tuple(flags["weights"])
        try:
            train(Config(**flags))
        except UserError as error:
            errors.append(str(error))
        else:
            errors.append("")
    (FOLDER / f"errors-{INDEX}.json").write_text(json.dumps(errors))
    from keras_ft.system import lifeline

    with lifeline._connect().scope():
        found = {name: fit_with_keras_alone(name) for name in ("build", "logs")}
    if not INDEX:
        (FOLDER / "keras.json").write_text(json.dumps(found))


main()
