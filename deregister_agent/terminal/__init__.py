"""The inside of the command line: what the commands do and how progress is shown."""
