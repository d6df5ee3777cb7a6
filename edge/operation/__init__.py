"""Operating an edge: its status, metrics, health, drain and the reload of its settings."""
