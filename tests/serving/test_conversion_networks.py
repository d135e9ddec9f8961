"""Real networks in every format."""

import importlib.util

import numpy as np
import pytest
from hub_helpers import NETWORKS, make_preset
from model_helpers import randomise

from keras_ft.catalog.formats import FORMATS
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.models.classifier import fold_classifier, make_backbone, make_classifier
from keras_ft.models.trained import describe_network
from keras_ft.serving import conversion
from keras_ft.serving.runtimes import load_network
from keras_ft.tasks import Task

for extra in ("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx", "openvino"):
    pytest.importorskip(extra, reason="needs the extras litert, onnx and openvino")

TASKS = (Task("one", ("a", "b", "c")), Task("more", ("x", "y"), True, (0.5, 0.5)))
# ConvNeXt has grouped convolutions and GELU, which ONNX lacks as Keras writes them.
BACKBONES = ("resnet50", "mobilenet_v2", "efficientnet_v2_b0", "convnext_tiny")
TOLERANCES = {"litert_float16": 0.02, "litert_int8": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*BACKBONES, *(f"hub:{name}" for name in NETWORKS)], ids=str
)
def test_a_network_answers_alike_in_every_format(name, tmp_path):
    size = (64, 96)
    if name.startswith("hub:"):
        if not importlib.util.find_spec("keras_hub"):
            pytest.skip("needs the extra hub")
        network = name.removeprefix("hub:")
        side = NETWORKS[network][2]
        size = (side, side)
        name = f"hub:{make_preset(tmp_path, network)}"
    backbone = randomise(make_backbone(name, size))
    model = make_classifier(backbone, TASKS, dropout=0.0)
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (3, *size, 3)).astype("float32")
    folded = fold_classifier(model, TASKS)
    description = describe_network(model, TASKS, Preprocessing(*size))
    graph = conversion.trace(folded, TASKS)
    expected = {key: value.numpy() for key, value in graph(pixels).items()}
    assert all(np.isfinite(of_task).all() for of_task in expected.values())
    for name, write in conversion.WRITERS.items():
        folder = tmp_path / "exports" / name
        folder.mkdir(parents=True)
        write(graph, description, folder)
        run = load_network(folder / FORMATS[name].file)
        for batch in (slice(0, 3), slice(0, 1)):
            answer = run(pixels[batch])
            differences = [
                np.abs(answer[key] - of_task[batch]).max()
                for key, of_task in expected.items()
            ]
            assert max(differences) < TOLERANCES.get(name, 1e-4)
        print(f"{name}: {max(differences):.0e}")
