"""Explain the way of a packet: what the hub's objects want, what the kernel holds, and the sentence that says why.

`objects`, `parties`, `reasons`, `way`, `things` and `trace` are pure; `reader` looks into a node's namespaces.
"""
