"""Ways to tell the release platform. One file per backend; the file's name is its ``kind``."""
