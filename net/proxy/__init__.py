"""kube-proxy: turns Services and EndpointSlices into kernel rules."""
