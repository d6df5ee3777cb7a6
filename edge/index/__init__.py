"""What the edges of a branch know of each other, behind one protocol: in this process, or in Redis or Valkey."""
