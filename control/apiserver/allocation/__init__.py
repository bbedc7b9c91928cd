"""What is unique in a cluster and handed out to Services: cluster IPs and node ports.

`services` decides what a Service needs (pure), `addresses` and `node_ports` take and free it in the store,
`allocator` does both for one write, and `repair` finds what was leaked or taken twice.
"""
