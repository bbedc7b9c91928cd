"""Admission policies: rules in CEL that the API server itself holds writes to (admissionregistration.k8s.io/v1)."""
