"""The whole job, end to end."""
