"""Calls to other programs that end: HTTP, gRPC."""
