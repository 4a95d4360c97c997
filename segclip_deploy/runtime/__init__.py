"""What flies: frames in, label maps out. Needs NumPy and Pillow; engines are imported at use."""
