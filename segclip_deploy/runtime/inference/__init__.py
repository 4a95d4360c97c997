"""A frame in, a label map out."""
