"""Deployments: rollouts as numbers, revisions, conditions, and the reconciler over them; all pure but `controller`."""
