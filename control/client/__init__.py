"""How every component talks to an API server: one Client protocol, two transports, informers and queues."""
