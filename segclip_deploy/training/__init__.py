"""The reference trainer (needs torch)."""
