"""Authorization: who may do what.

The evaluators (`rules`, `rbac`, `node`, `escalation`, `bootstrap`) are pure; `authorizer` holds them over the
cache and `reviews` answers the access review kinds. Who somebody is stands in `authn`, not here.
"""
