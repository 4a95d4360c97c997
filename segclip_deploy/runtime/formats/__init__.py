"""What a source is: by its name, its first bytes, its tags and the files beside it."""
