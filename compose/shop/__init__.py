"""The app under test: its doors, its counter, its queue."""
