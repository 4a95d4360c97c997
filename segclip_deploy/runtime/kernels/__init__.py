"""CUDA kernels of our own: their source is in the package, and nothing else is ever compiled."""
