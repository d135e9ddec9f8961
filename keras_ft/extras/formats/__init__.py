"""Export formats besides the SavedModel: LiteRT, ONNX, OpenVINO."""
