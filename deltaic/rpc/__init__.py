"""How nodes talk: channels, servers, interceptors, deadlines, retries, errors to status and back."""
