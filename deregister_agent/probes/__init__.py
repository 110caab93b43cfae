"""Ways to learn what an app still has in hand. One file per backend; its name is its ``kind``."""
