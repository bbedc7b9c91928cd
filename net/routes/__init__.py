"""Routes to other nodes' pods, and the one masquerade rule for pods that talk to the outside.

`plan` and `masquerade` are pure; `server` keeps the kernel at what they say.
"""
