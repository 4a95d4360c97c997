"""What a source is, by its name, first bytes, tags and the files beside it; and how an image file is decoded."""
