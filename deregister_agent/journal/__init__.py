"""What was decided, on disk before it is acted on."""
