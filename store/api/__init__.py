"""etcd's gRPC services on one member, a module each; which server carries them is the front door's business."""
