"""Rules that objects must keep, with Kubernetes' own texts: what a client reads in a 422 answer."""
