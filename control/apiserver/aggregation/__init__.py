"""API aggregation: group versions that other API servers answer for, each registered by an APIService.

`services`, `registration` and `documents` are pure: what an APIService says, which ones this server keeps for what it
serves itself, and what discovery and OpenAPI tell of the others. `backends` reaches them, `proxy` passes requests on,
`aggregator` joins them and keeps every APIService's status, `trust` tells them whom to believe.
"""
