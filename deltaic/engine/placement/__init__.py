"""Where a model is put: what it needs of memory, how many layers go to which GPU, and what to try when that fails."""
