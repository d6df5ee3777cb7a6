"""What a model file is: digests, GGUF layout, chunks, manifests. Pure: bytes in, bytes out, no network."""
