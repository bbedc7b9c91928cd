"""The cluster's DNS on one node.

`zone` (pure) makes records of Services, EndpointSlices and Namespaces; `server` feeds them to the *resolver*, a small
process of its own that holds the sockets and answers. The resolver outlives whoever feeds it, so that the agent may be
restarted, upgraded or killed while pods go on asking.
"""
