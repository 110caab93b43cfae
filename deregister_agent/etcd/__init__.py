"""How to talk to etcd, and where instances lie in it."""
