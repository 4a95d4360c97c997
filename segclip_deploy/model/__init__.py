"""SegCLIP itself: spec, text, encoders, fusion, checkpoint (needs torch)."""
