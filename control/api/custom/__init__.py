"""Custom resources: what a CustomResourceDefinition's schema says of the objects of its kind.

PURE. A schema stays the JSON that the definition holds (a *structural* OpenAPI v3 schema), and each module walks it for
one purpose: `pruning` cuts and fills in, `checking` finds faults, `shapes` tells server-side apply what has an owner.
"""
