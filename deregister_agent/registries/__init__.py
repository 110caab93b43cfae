"""What sends work to instances. One file per backend; the file's name is its ``kind``."""
