"""What every node shares."""

import os as _os

# The native half of gRPC reads this once, when it is imported. What it would print becomes an error of ours anyway.
_os.environ.setdefault("GRPC_VERBOSITY", "NONE")
