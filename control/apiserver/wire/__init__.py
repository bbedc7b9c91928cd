"""gRPC over one HTTP/2 connection a member, by hand: what a call to the store costs decides what a write costs."""
