"""Processes in front of the gateway: the Open Inference Protocol over HTTP and gRPC, and the proxy that watches native
clients."""
