"""The center: the library of models. Catalog, publishing, channels, the audit log, the fleet, escalated answers."""
