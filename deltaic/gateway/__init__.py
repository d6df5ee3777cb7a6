"""The HTTP face of a node: what clients of OpenAI's API already speak, over the contract that every node speaks."""
