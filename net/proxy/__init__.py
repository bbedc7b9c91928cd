"""kube-proxy's role: Services and EndpointSlices in, kernel rules out.

`services` tracks changes, `rules` holds what the rules mean, `iptables` renders them: all pure.
`apply` and `conntrack` touch the kernel; `server` watches the hub and drives them.
"""
