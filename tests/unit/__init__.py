"""What needs no server and no network but loopback."""
