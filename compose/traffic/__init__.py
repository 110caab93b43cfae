"""The load: requests of every kind, and what became of each."""
