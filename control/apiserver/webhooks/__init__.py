"""Admission webhooks: programs of users' own that complete and refuse writes (admissionregistration.k8s.io/v1).

`matching` and `review` are pure: whom a request concerns, what is asked and answered. `caller` asks over HTTPS;
`plugin` joins them to the admission chain.
"""
