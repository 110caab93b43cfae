"""The documentation is true: what it names exists, and what it tells to type runs."""
