"""Bodies of `:predict` requests -> the contents of image files.

This is TensorFlow Serving's JSON: https://www.tensorflow.org/tfx/serving/api_rest.
"""

import base64
import json
from typing import Any

from keras_ft.data.file_facts import detect_format
from keras_ft.errors import UserError

# Name of the only input, and of the signature.
INPUT = "image_bytes"
SIGNATURE = "serving_default"
MAX_IMAGES = 512
_SIGNATURE_BYTES = 256  # enough to recognise a format
_FORM = (
    'The body must be one image file, or JSON such as {"instances": [{"b64": "..."}]} '
    "with image files in base64"
)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# Commas and opening brackets: an image needs three. Base64 contains none.
MAX_JSON_VALUES = 10_000


def parse_request(body: bytes) -> tuple[list[bytes], bool]:
    """Reads the body of a `:predict` request: an image file, or JSON.

    In the JSON, `instances` is a list of images, or `inputs`, each as `{"b64": ...}` or
    `{"image_bytes": {"b64": ...}}`.

    Returns:
        The images, and whether the answer has a row for each (`instances`) or a
        column for each output (`inputs`).

    Raises:
        UserError: It is no such request.
    """
    if detect_format(body[:_SIGNATURE_BYTES]):
        return [body], True
    content = _load_json(body)
    if not isinstance(content, dict) or not {"instances", "inputs"} & set(content):
        raise UserError(f'{_FORM}. Received: JSON without "instances" and "inputs"')
    if content.get("signature_name", SIGNATURE) not in (SIGNATURE, ""):
        raise UserError(f'"signature_name" must be "{SIGNATURE}" or left out')
    in_rows = "instances" in content
    images = content["instances" if in_rows else "inputs"]
    if isinstance(images, dict) and set(images) == {INPUT}:
        images = images[INPUT]
    if not isinstance(images, list) or not 0 < len(images) <= MAX_IMAGES:
        raise UserError(f"A request must have a list of 1 to {MAX_IMAGES} images")
    return [_decode(image, i) for i, image in enumerate(images)], in_rows


def _load_json(body: bytes) -> Any:
    # Parsing 10 MB of `[],[],` takes 18 s, counting milliseconds.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise UserError(
            f"The JSON of the body may have at most {MAX_JSON_VALUES} values; an image "
            "needs three"
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{_FORM}. Received: neither; it is no JSON: {error}"
        ) from error


def _decode(image: Any, index: int) -> bytes:
    if isinstance(image, dict) and set(image) == {INPUT}:
        image = image[INPUT]
    match image:
        case {"b64": str(text)} if len(image) == 1:
            try:
                return _decode_base64(text)
            except ValueError as error:
                raise UserError(f"Image {index} is not base64: {error}") from error
    raise UserError(
        f'Image {index} must be {{"b64": "..."}}, a base64-encoded image file'
    )


def _decode_base64(text: str) -> bytes:
    """Decodes base64 of any kind: with line breaks, for addresses, without padding."""
    plain = text.encode("ascii").translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
    return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
