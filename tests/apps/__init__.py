"""Programs that the tests drive: apps, receivers of announcements, an agent of a gateway."""
