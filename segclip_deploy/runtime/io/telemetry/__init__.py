"""What is known of a frame besides its pixels: when, where, how high."""
