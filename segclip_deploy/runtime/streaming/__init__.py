"""Frames through a segmenter into a sink, in order, on time."""
