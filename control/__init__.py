"""The control plane: objects, API server, scheduler, controllers and the client they share."""
