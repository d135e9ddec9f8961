"""What an export without decoding needs beside it: how to make its pixels."""

import dataclasses
import inspect
from pathlib import Path

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.host import files
from keras_ft.serving import preprocess

SETTINGS = "preprocessing.json"
CODE = "preprocess.py"


def write_preprocessing(preprocessing: Preprocessing, folder: Path) -> None:
    """Writes preprocessing.json, and preprocess.py, which carries it out."""
    settings = preprocess.Settings(*dataclasses.astuple(preprocessing))
    files.write_json(folder / SETTINGS, settings._asdict() | preprocess.STEPS)
    files.write_text(folder / CODE, inspect.getsource(preprocess))
