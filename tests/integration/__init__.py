"""Real servers, real processes."""
