"""Bodies that are no plain JSON with plain base64."""

import base64
import gzip
import io
import json

import pytest
from hostile_files import encode
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from server_helpers import b64, predict

from keras_ft.errors import UserError
from keras_ft.extras.server import bodies
from keras_ft.extras.server.parse import parse_request

PATH = "/v1/models/mine:predict"


@pytest.mark.parametrize("content", [b"", b"\xfb\xff\xfe", bytes(range(256)), b"ab"])
def test_base64_may_have_line_breaks_or_no_padding_or_be_for_addresses(content):
    for text in (
        base64.encodebytes(content).decode(),
        base64.urlsafe_b64encode(content).decode(),
        base64.b64encode(content).decode().rstrip("="),
        base64.encodebytes(content).decode().replace("\n", "\r\n "),
    ):
        body = json.dumps({"instances": [{"b64": text}]}).encode()
        assert parse_request(body) == ([content], True)


@pytest.mark.parametrize("text", ["a", "ab!d", "\u00e4", "YWJj=YWJj"])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(UserError, match="Image 0 is not base64"):
        parse_request(json.dumps({"instances": [{"b64": text}]}).encode())


def test_the_body_may_be_an_image_file(client, images):
    [expected] = predict(client, instances=[b64(images[0])]).json()["predictions"]
    for kind in ("image/png", "application/octet-stream", ""):
        headers = {"Content-Type": kind}
        answer = client.post(PATH, content=images[0], headers=headers)
        assert answer.json() == {"predictions": [expected]}
    with Image.open(io.BytesIO(images[0])) as image:
        tiff = encode(image, "tiff")
    assert client.post(PATH, content=tiff).json() == {"predictions": [expected]}


def test_other_bodies_are_refused_with_an_example(client, images):
    form = client.post(PATH, files={"file": ("a.png", images[0], "image/png")})
    text = client.post(PATH, content=b"photo.jpg")
    empty = client.post(PATH, content=b"")
    for answer in (form, text, empty):
        assert answer.status_code == 400
        assert '{"instances": [{"b64": "..."}]}' in answer.json()["error"]


def post_gzip(client, content):
    return client.post(PATH, content=content, headers={"Content-Encoding": "gzip"})


def test_a_body_may_be_packed_by_gzip(client, images):
    body = json.dumps({"instances": [b64(one) for one in images]}).encode()
    expected = client.post(PATH, content=body).json()
    assert post_gzip(client, gzip.compress(body)).json() == expected
    answer = client.post(PATH, content=body, headers={"Content-Encoding": "br"})
    assert (answer.status_code, "gzip, or none" in answer.text) == (415, True)
    for wrong, reason in [
        (body, "must be gzip: "),
        (gzip.compress(body)[:-9], "its end is missing"),
        (b"", "its end is missing"),
    ]:
        answer = post_gzip(client, wrong)
        assert (answer.status_code, reason in answer.text) == (400, True)


def test_a_packed_body_is_not_unpacked_beyond_the_limit(client, images, monkeypatch):
    monkeypatch.setattr(bodies, "MAX_BYTES", 10_000)
    answer = post_gzip(client, gzip.compress(bytes(10_001)))
    assert (answer.status_code, "when it is unpacked" in answer.text) == (413, True)
    # What lies behind the limit is not even looked at.
    lengths = []

    class Unpacker:
        eof = False

        def decompress(self, packed, most):
            lengths.append(most)
            return bytes(most)

    monkeypatch.setattr(bodies.zlib, "decompressobj", lambda bits: Unpacker())
    assert post_gzip(client, b"packed").status_code == 413
    assert lengths == [10_001]
    # Unpacked bytes count as in work.
    monkeypatch.undo()
    monkeypatch.setattr(bodies, "MAX_BYTES_IN_WORK", 5_000)
    assert post_gzip(client, gzip.compress(bytes(6_000))).status_code == 503
    monkeypatch.undo()
    assert predict(client, instances=[b64(images[0])]).status_code == 200
