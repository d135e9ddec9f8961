import io

import numpy as np
import pytest
import tensorflow as tf
from conftest import COLOURS
from PIL import Image

from keras_ft import pipeline
from keras_ft.data import Split


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colourful():
    y, x = np.mgrid[:32, :32] * 8
    return Image.fromarray(np.stack([x, y, (x + y) // 2], -1).astype(np.uint8))


RGB = colourful()
DEEP = Image.fromarray((np.mgrid[:32, :32][1] * 2000).astype(np.uint16))
FILES = {
    "jpeg": (encode(RGB, "jpeg", quality=95), RGB, 9),
    "jpeg grey": (encode(RGB.convert("L"), "jpeg"), RGB.convert("L"), 4),
    "jpeg cmyk": (encode(RGB.convert("CMYK"), "jpeg", quality=95), RGB, 4),
    "png": (encode(RGB, "png"), RGB, 0),
    "png grey": (encode(RGB.convert("L"), "png"), RGB.convert("L"), 0),
    "png palette": (encode(RGB.quantize(64), "png"), RGB.quantize(64), 0),
    "png alpha": (encode(RGB.convert("RGBA"), "png"), RGB, 0),
    "png 16 bit": (encode(DEEP, "png"), Image.fromarray(np.asarray(DEEP) // 256), 0),
    "bmp": (encode(RGB, "bmp"), RGB, 0),
    "bmp grey": (encode(RGB.convert("L"), "bmp"), RGB.convert("L"), 0),
    "bmp palette": (encode(RGB.quantize(64), "bmp"), RGB.quantize(64), 0),
    "gif": (encode(RGB.quantize(64), "gif"), RGB.quantize(64), 0),
    "gif animated": (
        encode(
            RGB.quantize(64),
            "gif",
            save_all=True,
            append_images=[RGB.rotate(90).quantize(64)],
        ),
        RGB.quantize(64),
        0,
    ),
    "webp": (encode(RGB, "webp", lossless=True), RGB, 0),
    "webp alpha": (encode(RGB.convert("RGBA"), "webp", lossless=True), RGB, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_decoded_as_pillow_does(name):
    content, image, tolerance = FILES[name]
    expected = np.asarray(image)
    if image.mode not in ("RGB", "I;16"):
        expected = np.asarray(image.convert("RGB"))
    elif expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    decoded = pipeline.decode_image(tf.constant(content), 32)
    np.testing.assert_allclose(decoded, expected, atol=tolerance)


def test_resize_is_antialiased_bilinear():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    decoded = pipeline.decode_image(tf.constant(encode(image, "png")), 16)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(decoded, expected, atol=1.5)


@pytest.mark.parametrize(
    "content",
    [b"", b"BM", b"a text", FILES["jpeg"][0][:300], FILES["bmp palette"][0][:600]],
)
def test_what_is_no_image_is_an_error(content):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        pipeline.decode_image(tf.constant(content), 16)


@pytest.fixture
def split(image_folder):
    files = [
        str(f) for name in COLOURS for f in sorted((image_folder / name).iterdir())
    ]
    labels = np.repeat(np.arange(3), 10)
    return Split(np.array(files, object), np.array(files, object), labels)


def read(split, **options):
    dataset = pipeline.make_dataset(split, 3, 16, 8, **options)
    batches = [list(dataset.as_numpy_iterator()) for _ in range(2)]
    return [
        tuple(np.concatenate(part) for part in zip(*epoch, strict=True))
        for epoch in batches
    ]


def test_nothing_is_dropped_and_order_is_kept(split):
    (images, labels), (again, _) = read(split)
    assert images.shape == (30, 16, 16, 3)
    assert images.dtype == labels.dtype == np.float32
    np.testing.assert_array_equal(labels.argmax(1), split.labels)
    np.testing.assert_array_equal(labels.sum(1), 1)
    np.testing.assert_array_equal(images, again)
    colours = images.mean(axis=(1, 2))
    expected = np.array(list(COLOURS.values()))[split.labels]
    np.testing.assert_allclose(colours, expected, atol=15)


def test_shuffling_differs_by_epoch_and_repeats_by_seed(split):
    (one, labels), (two, _) = read(split, shuffle_seed=3)
    (again, _), _ = read(split, shuffle_seed=3)
    (other, _), _ = read(split, shuffle_seed=4)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, other)
    # Images and labels move together.
    colours = np.array(list(COLOURS.values()))[labels.argmax(1)]
    np.testing.assert_allclose(one.mean(axis=(1, 2)), colours, atol=15)


def test_label_smoothing_spreads_over_all_classes(split):
    [(_, labels), _] = read(split, label_smoothing=0.3)
    np.testing.assert_allclose(labels[0], [0.8, 0.1, 0.1], atol=1e-6)


def test_file_names_need_not_be_utf8(tmp_path):
    file = str(tmp_path / "caf\udce9.png")
    with open(file, "wb") as stream:
        stream.write(FILES["png"][0])
    names = np.array([file], object)
    [(images, _), _] = read(Split(names, names, np.array([1])))
    assert images.shape == (1, 16, 16, 3)


def test_unreadable_files_are_found(split, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(FILES["jpeg"][0][:300])
    gone = str(tmp_path / "gone.jpg")
    files = [*split.files[:3], str(broken), gone]
    assert pipeline.find_unreadable(files) == [str(broken), gone]
