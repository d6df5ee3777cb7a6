"""How a model answers: a worker process for each loaded revision, its supervisor, the host that switches revisions."""
