"""etcd v3's services and messages."""
