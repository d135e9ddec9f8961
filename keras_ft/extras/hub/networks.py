"""Networks of KerasHub as backbones: from pixels in [0, 255] to a feature map."""

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ft.catalog.backbones import add_backbone
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.errors import UserError
from keras_ft.extras.hub import presets
from keras_ft.extras.hub.hub_stages import find_stages
from keras_ft.extras.hub.presets import CONVERTER, Preset
from keras_ft.extras.hub.torch_check import check_conversion
from keras_ft.models.folding import clone
from keras_ft.models.published import shorten

log = logging.getLogger("keras_ft")


def make_network(
    name: str, image_size: ImageSize, load_weights: bool = False
) -> keras.Model:
    """Makes a network of KerasHub, with random weights or its own, and adds its row.

    Returns:
        A model from pixels float32 [B, H, W, 3] in [0, 255], which it normalises, to a
        feature map [B, h, w, D]. Of a network that gives one vector per image, such as
        the class token of a transformer, the map is that vector, and h = w = 1.

    Raises:
        UserError: KerasHub can't make the network, or its weights are not converted
            correctly.
    """
    preset = find_files(name)
    with _folder_to_read(preset) as folder:
        network, scale, offset = _load(preset, folder, image_size, load_weights)
    images = keras.Input((*image_size, 3), name="image")
    # In float32 also under mixed precision, like the normalisation of other backbones.
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="rescaling")(images)
    inputs = dict.fromkeys(network.input, x) if isinstance(network.input, dict) else x
    # A convolutional network becomes its layers, so that it can be split and folded;
    # others one layer: KerasHub can't copy their layers, and some report wrong shapes.
    call = network.call if preset.is_convolutional else network
    model = keras.Model(images, _to_map(call(inputs), network, image_size))
    model = clone(model) if preset.is_convolutional else model
    row = presets.make_row(preset, find_stages(model, preset))
    add_backbone(row)
    backbone = keras.Model(model.input, model.output, name=row.model_name)
    if load_weights and preset.origin != "keras_hub":
        check_conversion(backbone, preset, _find_weights(preset))
    if backbone.output_shape[1:3] == (1, 1):
        log.info("%s gives one vector per image: there is no Grad-CAM of it.", name)
    return backbone


def load_network(name: str, image_size: ImageSize) -> tuple[keras.Model, Path]:
    """Makes a network with the weights of its preset; returns also their file."""
    network = make_network(name, image_size, load_weights=True)
    return network, _find_weights(find_files(name))


def find_files(name: str) -> Preset:
    """Reads what the files of a network say, after downloading them if necessary."""
    source = name.removeprefix(presets.PREFIX)
    preset = presets.read_preset(source)
    return preset if preset.path else presets.read_preset(_download(source))


def _download(source: str) -> str:
    """Downloads a preset, unless its cache contains it; returns the folder."""
    import kagglehub
    import keras_hub  # here, since that takes a second and most runs do without

    builtin = keras_hub.models.Backbone.presets
    if "://" not in source and source not in builtin:
        raise UserError(
            "--backbone=hub:PRESET must be a preset of KerasHub. Received: "
            f"{source}; its documentation lists them, and so does "
            "keras_hub.models.Backbone.presets"
        )
    try:
        if source.startswith("hf://"):
            import huggingface_hub

            return huggingface_hub.snapshot_download(source.removeprefix("hf://"))
        handle = builtin[source]["kaggle_handle"] if source in builtin else source
        return kagglehub.model_download(handle.removeprefix("kaggle://"))
    except Exception as error:  # of requests, kagglehub and huggingface_hub
        raise UserError(
            f"--backbone=hub:{source} can't be downloaded: {shorten(str(error))}. "
            "Download it elsewhere and give its folder: --backbone=hub:FOLDER"
        ) from error


@contextlib.contextmanager
def _folder_to_read(preset: Preset) -> Iterator[Path]:
    """Gives a folder with config.json and weights, as KerasHub's loaders want it."""
    path = preset.path or Path()
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps(preset.config))
        os.symlink(path.absolute(), folder / "model.safetensors")
        yield folder


def _find_weights(preset: Preset) -> Path:
    """The file that contains the weights of a preset; there must be exactly one."""
    path = preset.path or Path()
    if path.is_file():
        return path
    names = ("model.weights.h5", "model.safetensors")
    files = [path / name for name in names if (path / name).is_file()]
    if len(files) != 1:
        raise UserError(
            f"--backbone=hub:{preset.source} must contain either model.weights.h5 or "
            f"model.safetensors. Received: {len(files)} of them; give --weights=none "
            "to start from random weights"
        )
    return files[0]


def _load(
    preset: Preset, folder: Path, image_size: ImageSize, load_weights: bool
) -> tuple[keras.Model, list[float], list[float]]:
    """Loads the network of images, and the factor and offset of pixels per channel."""
    import keras_hub

    _check_converter(preset)
    if load_weights:
        _find_weights(preset)
    # The size of the image tower of these two can't be chosen.
    is_fixed = preset.family in ("CLIP", "SigLIP")
    shape: Any = {} if is_fixed else {"image_shape": (*image_size, 3)}
    try:
        # Some converters print each layer.
        with contextlib.redirect_stdout(io.StringIO()):
            network = keras_hub.models.Backbone.from_preset(
                str(folder), load_weights=load_weights, **shape
            )
            converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    except Exception as error:  # KerasHub, h5py and safetensors raise all kinds
        raise UserError(
            f"--backbone=hub:{preset.source} can't be loaded by KerasHub with "
            f"--image_size={image_size}: {shorten(str(error))}"
        ) from error
    if converter is None:
        raise UserError(
            f"--backbone=hub:{preset.source} must say how pixels are normalised, in "
            "image_converter.json, preprocessor_config.json or pretrained_cfg. "
            "Received: none of them; save the preprocessor into the folder, too"
        )
    network = getattr(network, "vision_encoder", network)
    wanted = network.inputs[0].shape[1:3]
    if None not in wanted and tuple(wanted) != image_size:
        raise UserError(
            f"--image_size must be {ImageSize(*wanted)} for hub:{preset.source}. "
            f"Received: {image_size}"
        )
    return network, *_normalisation(converter, image_size)


def _check_converter(preset: Preset) -> None:
    """Raises a UserError if KerasHub has saved a backbone without its preprocessor."""
    path = preset.path
    if preset.origin != "keras_hub" or not path or (path / CONVERTER).exists():
        return
    size = (preset.image_size,) * 2
    raise UserError(
        f"--backbone=hub:{preset.source} must say how pixels are normalised, in "
        f"{CONVERTER}. Received: none; write it with the factor and offset of your "
        "training, in Python: import keras_hub; converter = keras_hub.layers."
        f"{preset.family}ImageConverter(image_size={size}, scale=1 / 255, offset=0.0); "
        f"converter.save_to_preset({str(path)!r})"
    )


def _normalisation(
    converter: keras.Layer, image_size: ImageSize
) -> tuple[list[float], list[float]]:
    """Factor and offset by which a converter normalises pixels, per channel.

    They are measured on images of one colour: converters of some families compute
    more than their attributes say.
    """

    def convert(level: float) -> np.ndarray:
        image = np.full((1, *image_size, 3), level, "float32")
        return np.array(converter(image), "float64")[0, 0, 0]

    converter.image_size = tuple(image_size)
    black, white = convert(0.0), convert(255.0)
    scale = (white - black) / 255
    if not np.allclose(convert(100.0), black + 100 * scale, atol=1e-3):
        raise RuntimeError(f"{type(converter).__name__} does not normalise linearly")
    return scale.tolist(), black.tolist()


def _to_map(
    outputs: Any, network: keras.Model, image_size: ImageSize
) -> keras.KerasTensor:
    """Turns what a network returns into a feature map [B, h, w, D].

    Transformers that were trained with a class token return it first. The tokens of
    others are a map, or pooled already.
    """
    if isinstance(outputs, dict):  # HGNetV2 returns the map of each stage
        outputs = list(outputs.values())[-1]
    if len(outputs.shape) == 4:
        return outputs
    shape = (1, 1, outputs.shape[-1])
    if len(outputs.shape) == 3:
        num_tokens = outputs.shape[1]
        is_swin = type(network).__name__.startswith("SwinTransformer")
        if not is_swin and getattr(network, "use_class_token", True):
            crop = keras.layers.Cropping1D((0, num_tokens - 1), name="class_token")
            outputs = crop(outputs)
        else:
            height, width = image_size  # patches are square
            rows = round((num_tokens * height / width) ** 0.5)
            shape = (rows, num_tokens // rows, outputs.shape[-1])
    return keras.layers.Reshape(shape, name="to_map")(outputs)
