"""`--mode=export`: one more version of a finished run's SavedModel."""

import logging
import zipfile
from pathlib import Path

from keras_ft.config.config import Config
from keras_ft.data.dataset import load_dataset, load_test
from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.workdir import load_config
from keras_ft.system.startup import import_tensorflow

log = logging.getLogger("keras_ft")


def export(config: Config) -> Path:
    """Writes a workdir's model.keras as the next version of its SavedModel.

    Returns:
        The new version's folder.

    Raises:
        UserError: The workdir contains no run, or no readable model.keras.
    """
    paths = RunPaths(config.run.workdir)
    of_run = load_config(paths.folder)
    images = _load_images(of_run, paths)
    import_tensorflow()
    from keras_ft.images.pipeline import ImageReader, make_inputs
    from keras_ft.models.heads import predict_probabilities
    from keras_ft.models.trained import load_trained
    from keras_ft.serving import export as serving

    try:
        model, description = load_trained(paths.model)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            "--mode=export needs a finished run's workdir. Received: "
            f"{paths.folder}: {error}"
        ) from error
    version = serving.write_saved_model(model, description, paths.saved_model)
    batch_size = of_run.data.batch_size
    reader = ImageReader(
        images, model.input_shape[1:3], batch_size, resize=description.resize
    )
    inputs = make_inputs(reader, len(images))
    expected = predict_probabilities(model, description.tasks, inputs, len(images))
    serving.check_parity(version, images.files, expected, batch_size)
    return version


def _load_images(of_run: Config, paths: RunPaths) -> Examples:
    """Images on which the export is compared with the model: the run's test split."""
    try:
        dataset = load_dataset(of_run.replace(data=paths.splits).data)
        is_readable = dataset.facts["problem"] == 0
        test = dataset.examples.take(is_readable).test
        if len(test):
            return test
        reason = "are gone"
    except UserError as error:
        reason = str(error)
    log.warning("The check uses builtin:faces, since the run's images: %s", reason)
    return load_test(
        of_run.replace(data="builtin:faces", classes=(), label_columns=()).data
    )
