"""Export checkpoints to ONNX models, and build and verify TensorRT engines."""
