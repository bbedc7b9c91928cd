"""The door to nftables: `nft -f` for tables, chains and rules, raw nfnetlink for elements, dumps and events.

Who writes what: a schema (few chains, rules and empty sets) is text that people can read and `nft` loads;
what changes all day are set elements, and those go to the kernel as bytes, thousands to a transaction.
"""
