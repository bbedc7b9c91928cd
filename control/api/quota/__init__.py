"""ResourceQuota: what objects count for, which quotas they fall under, and whether a write still fits. Pure.

Admission charges a write before it is stored; the quota controller counts what is stored. Both measure by `usage`.
"""
