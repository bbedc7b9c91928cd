"""Port 10250: what the API server asks of a node: logs, exec, attach, port-forward, pods and figures."""
