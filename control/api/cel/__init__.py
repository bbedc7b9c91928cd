"""CEL: the expressions of CustomResourceDefinitions and admission policies, with Kubernetes' own functions."""
