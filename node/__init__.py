"""The kubelet: runs a node's pods on a container runtime through CRI."""
