"""Streams: frames from files and cameras, in order, on time."""
