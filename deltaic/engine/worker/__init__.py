"""The worker process: one model, one native context, a gRPC server on a Unix socket. Run as `python -m`."""
