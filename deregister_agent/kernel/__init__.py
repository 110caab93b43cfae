"""What the kernel says of sockets and processes."""
