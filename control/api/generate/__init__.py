"""Development-time generator: the public Kubernetes definitions in, the compact tables of `control.api.facts` out.

Nothing here is imported at run time.  It reads the Go sources of k8s.io/api (field names, wire numbers, list types,
enums; no descriptions are kept) and lightkube-models (plurals, verbs, subresources).
"""
