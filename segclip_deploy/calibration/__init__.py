"""Which tiles a model is calibrated on, and what is measured on them."""
