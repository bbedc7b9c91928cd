"""The columns and cells that ``kubectl get`` shows of each kind, rendered as Kubernetes' API server renders them."""
