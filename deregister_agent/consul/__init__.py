"""How to talk to Consul."""
