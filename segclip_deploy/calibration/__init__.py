"""Which tiles a model is calibrated on, and what it is quantized to."""
