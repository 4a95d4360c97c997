"""What lies on disk: files, and the records in them."""
