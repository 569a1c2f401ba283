"""The models that come with canthus: NAME.onnx, its manifest NAME.json and its card NAME.md."""
