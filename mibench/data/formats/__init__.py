"""Foreign file formats of annotations, read without trust."""
