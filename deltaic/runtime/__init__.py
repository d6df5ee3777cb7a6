"""How a node starts and stops: settings, logs, signals. Knows nothing of models or of the network."""
