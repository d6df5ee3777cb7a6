"""Who may, and the proof: identities, roles, the chained audit log. Signed metadata and sealing come here later."""
