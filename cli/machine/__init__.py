"""A cluster of real machines: each is made a control plane or a worker by a command on itself, and runs units."""
