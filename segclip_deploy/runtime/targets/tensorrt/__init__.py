"""TensorRT and TensorRT-RTX: one code for both, the library is a parameter."""
