"""The machine: sockets, processes, programs, files, addresses, the clock."""
