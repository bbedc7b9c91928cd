"""The part of the container runtime interface that the kubelet calls."""
