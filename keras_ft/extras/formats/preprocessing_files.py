"""What an export without decoding needs beside it: how to make its pixels."""

import dataclasses
import inspect
from pathlib import Path

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.extras.formats import preprocess
from keras_ft.host import files


def write_preprocessing(preprocessing: Preprocessing, folder: Path) -> None:
    """Writes preprocessing.json, and preprocess.py, which carries it out."""
    settings = preprocess.Settings(*dataclasses.astuple(preprocessing))._asdict()
    files.write_json(folder / "preprocessing.json", settings | preprocess.STEPS)
    files.write_text(folder / "preprocess.py", inspect.getsource(preprocess))
