"""The branch server: holds what its channels name, answers most requests, goes on with the line to the center cut."""
