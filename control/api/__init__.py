"""Kubernetes objects as facts and pure functions: no client, no clock, no event loop.

What a written object passes, in order: `protobuf` or JSON, `decode` (types, unknown fields), `patch`, `strategic` or
`apply` where it is a change, `defaulting`, `validation.objects`.  What a reader sees: `printers.table`, `openapi`,
`resources.catalog` for discovery.  All of it is driven by `schema`, which loads the tables in `facts`; `generate` makes
them.  Shared words: `meta`, `status`, `selectors`, `quantity`, `times`.
"""
