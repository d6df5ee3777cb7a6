"""The `deltaic` command: all of it as a person uses it."""

import deltaic as deltaic  # silences the native half of gRPC, so it comes before anything that imports grpc
