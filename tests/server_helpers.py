"""A client of the server, and requests."""

import base64
import json

from starlette.testclient import TestClient

from keras_ft.extras.server import app, loaded
from keras_ft.extras.server.measures import Measures


def make_client(path):
    """A client of a server of the models in a folder."""
    measures = Measures()
    served = loaded.Models(path, 4, measures)
    # An error of the server is an answer here, as it is for a client.
    return TestClient(app.make_app(served, measures), raise_server_exceptions=False)


def b64(content):
    """The content of a file, as JSON has it."""
    return {"b64": base64.b64encode(content).decode()}


def predict(client, path="/v1/models/mine:predict", **content):
    """Posts JSON."""
    return client.post(path, content=json.dumps(content))
