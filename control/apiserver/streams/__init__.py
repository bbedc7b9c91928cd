"""Requests that want the connection itself: log, exec, attach, portforward and proxy.

`upgrade` takes a connection out of HTTP's hands, `target` decides where a request goes on (pure), `relay` carries
bytes between the two ends, `pods` and `proxies` join them for each subresource. What WebSocket or SPDY frames say is
the business of the client and the kubelet; here they are bytes.
"""
