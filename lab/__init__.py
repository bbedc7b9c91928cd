"""Several real nodes on one machine: namespaces, a bridge, containerd and the components as processes."""
