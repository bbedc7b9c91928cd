"""The etcd role: a replicated, versioned key-value store that speaks etcd v3."""
