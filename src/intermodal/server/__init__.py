"""The control plane: rpc handlers, services, the store, the scheduler."""
