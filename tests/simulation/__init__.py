"""A simulated world around the real agent code; see __main__ for how to run it."""
