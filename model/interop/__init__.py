"""Networks of other programs, as checkpoints of ours: ONNX, OpenVINO IR, and torch's own files."""
