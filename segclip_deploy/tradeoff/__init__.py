"""Accuracy against latency, measured, and which engine to fly."""
