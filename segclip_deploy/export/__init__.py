"""From a checkpoint to a bundle (needs torch and onnx)."""
