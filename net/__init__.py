"""The network of one node: pod interfaces, addresses, routes between nodes, Service rules.

What decides (address allocation, change tracking, rule model, rendering, route plans) is pure;
`netlink` is the only door to the kernel's links and routes, `xtables` the only one to iptables.
"""
