"""Where bytes rest: chunks on the center, materialised model files with a chunk index on edges and devices."""
