"""The health check that the agent answers for an instance, and who has heard what."""
