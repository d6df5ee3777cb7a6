"""What this edge decided, on its disk until the center has it: bounded, append-only, in order, each entry once."""
