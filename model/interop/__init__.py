"""Import of networks that other programs have made: ONNX, OpenVINO IR, and files of torch."""
