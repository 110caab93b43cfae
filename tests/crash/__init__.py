"""Death at each side effect in turn, and always the same end."""
