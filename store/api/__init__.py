"""etcd v3's gRPC services, one a module, over the state machine and consensus."""
