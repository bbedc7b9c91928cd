"""NetworkPolicy on one node: policies, pods and namespaces in, one nft table out.

`model` parses, `plan` keeps what each set must hold and which chain judges each local pod, `render`
writes the rules: all pure. `apply` brings the kernel to the plan, `server` watches the hub and drives
it, `gate` keeps a pod from its first packet until its isolation stands.
"""
