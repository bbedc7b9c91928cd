"""Pod interfaces by the CNI specification: a small shim, and the daemon that does the work.

`spec` holds requests, results and errors (pure); `wiring` makes and removes interfaces; `daemon`
answers the shims; `server` runs it beside its informers and cleans up behind everybody.
"""
