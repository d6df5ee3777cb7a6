"""A branch of several edges: who of them answers a request, and who of them fetches a revision over the line."""
