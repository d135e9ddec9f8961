import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import make_task
from hostile_files import encode, make_bomb, make_scans
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

import tensorflow as tf
from server_helpers import b64, make_client, predict

from keras_ft.extras.server import app, batching, bodies, loaded, rest
from keras_ft.kinds.task import MULTILABEL


@pytest.fixture(scope="module")
def saved_model(runs):
    return tf.saved_model.load(str(runs / "mine" / "export" / "saved_model" / "1"))


def test_predictions_are_those_of_the_saved_model(client, saved_model, images):
    serve = saved_model.signatures["serving_default"]
    expected = serve(image_bytes=tf.constant(images))
    for path in ("/v1/models/mine:predict", "/v1/models/mine/versions/1:predict"):
        rows = predict(client, path, instances=[b64(one) for one in images]).json()
        assert list(rows) == ["predictions"]
        for i, row in enumerate(rows["predictions"]):
            assert set(row) == set(expected)
            assert row["class_name"] == expected["class_name"][i].numpy().decode()
            for name in ("probability", "probabilities"):
                np.testing.assert_allclose(row[name], expected[name][i], atol=1e-6)


def test_columns_have_the_same_values_as_rows(client, images):
    column = [b64(one) for one in images]
    named = [{"image_bytes": one} for one in column]
    rows = predict(client, instances=named).json()["predictions"]
    for inputs in (column, {"image_bytes": column}):
        columns = predict(client, inputs=inputs).json()["outputs"]
        assert columns["class_name"] == [row["class_name"] for row in rows]
        np.testing.assert_allclose(
            columns["probabilities"], [row["probabilities"] for row in rows], atol=1e-6
        )


def test_status_and_metadata_describe_the_saved_model(client, saved_model):
    [status] = client.get("/v1/models/mine").json()["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    content = client.get("/v1/models/mine/versions/1/metadata").json()
    assert content["model_spec"]["name"] == "mine"
    [task] = content["metadata"]["tasks"]
    assert task["class_names"] == ["blue", "green", "red"]
    described = content["metadata"]["signature_def"]["signature_def"]["serving_default"]
    expected = saved_model.signatures["serving_default"]
    _, inputs = expected.structured_input_signature
    dtype = {"DT_STRING": "string", "DT_FLOAT": "float32"}
    for tensors, specs in (
        (described["outputs"], expected.structured_outputs),
        (described["inputs"], inputs),
    ):
        assert set(tensors) == set(specs)
        for name, spec in specs.items():
            shape = [int(d["size"]) for d in tensors[name]["tensor_shape"]["dim"]]
            assert dtype[tensors[name]["dtype"]] == spec.dtype.name
            assert shape == [-1 if size is None else size for size in spec.shape]


def test_the_answer_has_the_outputs_of_the_signature():
    """Also for several tasks, and one with several labels."""
    tasks = (
        make_task(3, name="kind"),
        make_task(2, name="tags", kind=MULTILABEL, thresholds=(0.3, 0.6)),
    )
    predicted = {"kind": np.float32([0.2, 0.5, 0.3]), "tags": np.float32([0.3, 0.7])}
    for listed in (tasks, tasks[:1], tasks[1:]):
        expected = {}
        for task in listed:
            of_task = tf.constant(predicted[task.name][None])
            outputs = task.kind.answer_in_graph(task, of_task)
            prefix = "" if listed == tasks[:1] else f"{task.name}/"
            expected |= {f"{prefix}{name}": value for name, value in outputs.items()}
        answer = rest.make_answer(listed, [predicted], in_rows=True)
        [row] = answer["predictions"]
        assert set(row) == set(expected)
        for name, value in row.items():
            [wanted] = expected[name].numpy()
            if isinstance(value, str):
                assert value == wanted.decode()
            else:
                np.testing.assert_allclose(value, wanted)
    assert row["tags/labels"] == "a|b"


def test_the_page_gets_an_explained_answer(client, images):
    answer = client.post("/v1/models/mine:explain", content=images[0]).json()
    assert answer["image"].startswith("data:image/jpeg;base64,")
    [task] = answer["tasks"]
    [row] = predict(client, instances=[b64(images[0])]).json()["predictions"]
    assert task["classes"][0]["class_name"] == row["class_name"]
    shown = [one["probability"] for one in task["classes"]]
    assert shown == sorted(shown, reverse=True)
    np.testing.assert_allclose(sorted(shown), sorted(row["probabilities"]), atol=1e-6)


def test_wrong_requests_are_refused_with_the_reason(client, images):
    good, cut = b64(images[0]), b64(images[0][:200])

    def post(content):
        return client.post("/v1/models/mine:predict", content=content)

    for status, reason, response in [
        (400, "it is no JSON", post(b"{")),
        (400, "it is no JSON", post(b"\xff")),
        (400, "it is no JSON", post(b"[" * 9000)),
        (400, "at most 10000 values", post(b"[" * 100_000)),
        (400, "at most 10000 values", post(b"[1" + b",1" * 10_000)),
        (400, '"instances" and "inputs"', post(b"[]")),
        (400, "signature_name", predict(client, signature_name="x", instances=[good])),
        (400, "list of 1 to", predict(client, instances=[])),
        (400, "list of 1 to", predict(client, instances={"b64": ""})),
        (400, "list of 1 to", predict(client, instances=[good] * 513)),
        (400, "Image 1 must be", predict(client, instances=[good, "x"])),
        (400, "Image 0 must be", predict(client, instances=[{"b64": 1}])),
        (400, "Image 0 is not base64", predict(client, instances=[{"b64": "ä"}])),
        (400, "Image 0: not a readable", predict(client, instances=[b64(b"")])),
        (400, "Image 1: not a readable", predict(client, instances=[good, cut])),
        (400, "pixels", predict(client, instances=[b64(make_bomb())])),
        (400, "not a readable", client.post("/v1/models/mine:explain", content=b"x")),
        (404, "no model x", predict(client, "/v1/models/x:predict", instances=[good])),
        (404, "only version 1", client.get("/v1/models/mine/versions/2")),
        (404, "only version 1", client.get(f"/v1/models/mine/versions/{'9' * 5000}")),
        (404, "Not Found", client.get("/nowhere")),
        (404, "Not Found", client.get("/static/../app.py")),
        (405, "Method Not Allowed", client.post("/v1/models/mine")),
    ]:
        [(key, error)] = response.json().items()
        assert (key, response.status_code) == ("error", status), error
        assert reason in error
    assert predict(client, instances=[good]).status_code == 200


def test_images_that_take_much_work_are_refused_with_the_limit(client):
    wide = encode(Image.new("1", (8000, 7000)), "tiff", compression="group4")
    large = encode(Image.new("L", (9000, 9000)), "webp", lossless=True, method=0)
    for reason, contents in [
        ("such as TIFF, may have at most 50000000 pixels", [wide]),
        ("Image 1: A JPEG may have at most 100 scans", [large, make_scans(64, 200)]),
        ("of a request may have at most 250000000 pixels together", [large] * 4),
    ]:
        response = predict(client, instances=[b64(one) for one in contents])
        assert (response.status_code, reason in response.text) == (400, True)
    response = client.post("/v1/models/mine:explain", content=wide)
    assert (response.status_code, "pixels" in response.text) == (400, True)


def test_a_foreign_image_is_converted(client, images):
    with Image.open(io.BytesIO(images[0])) as image:
        tiff = encode(image, "tiff")
    answers = predict(client, instances=[b64(tiff), b64(images[0])]).json()
    assert answers["predictions"][0] == answers["predictions"][1]
    cut = predict(client, instances=[b64(images[0]), b64(tiff[:-100])])
    assert (cut.status_code, "Image 1: not a readable" in cut.text) == (400, True)
    answer = client.post("/v1/models/mine:explain", content=tiff).json()
    assert answer["image"].startswith("data:image/")


def test_limits_of_size_time_and_memory(client, images, monkeypatch):
    request = {"instances": [b64(images[0])]}
    for module, name, value, status in [
        (bodies, "MAX_BYTES", 100, 413),
        (bodies, "MAX_BYTES_IN_WORK", 100, 503),
        (batching, "MAX_WAITING", 0, 503),
        (app, "ANSWER_SECONDS", 0.0, 504),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            response = predict(client, **request)
        assert response.status_code == status, response.text
        assert ("retry-after" in response.headers) == (status == 503)
    assert predict(client, **request).status_code == 200


def test_a_failure_of_the_model_is_one_answer_and_logged(
    client, images, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        patch.setattr(loaded, "classify_images", lambda *_: 1 / 0)
        response = predict(client, instances=[b64(images[0])])
    assert response.status_code == 500
    assert "division" not in response.text
    assert "mine:predict failed" in caplog.text
    assert predict(client, instances=[b64(images[0])]).status_code == 200


def test_requests_are_counted(runs, images):
    with make_client(runs) as client:
        predict(client, instances=[b64(one) for one in images])
        predict(client, "/v1/models/made_up:predict", instances=[])
        text = client.get("/metrics").text
    for line in (
        'keras_ft_requests_total{action="predict",model="mine",status="200"} 1.0',
        'keras_ft_requests_total{action="predict",model="",status="404"} 1.0',
        'keras_ft_batch_images_sum{model="mine"} 3.0',
        'keras_ft_waiting_images{model="mine"} 0.0',
        'keras_ft_model_version{model="mine"} 1.0',
    ):
        assert line in text
    assert "made_up" not in text


def test_a_new_version_is_loaded_and_no_request_is_dropped(
    finished_run, tmp_path, images, monkeypatch
):
    monkeypatch.setattr(loaded, "RELOAD_SECONDS", 0.05)
    exports = tmp_path / "mine"
    exported = Path(finished_run.run.workdir) / "export" / "saved_model" / "1"
    shutil.copytree(exported, exports / "1")
    with make_client(exports) as client:
        statuses, stop = [], threading.Event()

        def send():
            while not stop.is_set():
                response = predict(client, instances=[b64(images[0])])
                statuses.append(response.status_code)

        senders = [threading.Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "saved_model.pb").write_bytes(b"damaged")
        (tmp_path / "3").rename(exports / "3")
        wait_for(lambda: len(statuses) > 20)
        assert version_of(client) == "1"  # a damaged one is not served
        shutil.rmtree(exports / "3")
        shutil.copytree(exported, tmp_path / "2")
        (tmp_path / "2").rename(exports / "2")
        wait_for(lambda: version_of(client) == "2")
        count = len(statuses)
        wait_for(lambda: len(statuses) > count + 5)
        stop.set()
        for sender in senders:
            sender.join()
    assert set(statuses) == {200}


def version_of(client):
    [status] = client.get("/v1/models/mine").json()["model_version_status"]
    return status["version"]


def wait_for(is_so):
    for _ in range(600):
        if is_so():
            return
        threading.Event().wait(0.05)
    raise TimeoutError
