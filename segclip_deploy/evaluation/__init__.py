"""What an engine is worth: accuracy against latency, measured, and which one to fly."""
