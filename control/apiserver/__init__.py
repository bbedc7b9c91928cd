"""The Kubernetes API over the store: authentication, authorization, admission, registry, watch cache."""
