"""Announce load balancers' addresses on the nodes' own network: one node answers for each, and another when it dies.

`plan` (pure) says who should answer for what; `frames` (pure) are ARP and neighbour discovery as bytes; `responder`
speaks them on a link; `server` holds the Leases.
"""
