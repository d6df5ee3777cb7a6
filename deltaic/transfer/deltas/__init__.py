"""Deltas as a service: made once, in a process of their own, planned with, served, and applied on nodes.

    likeness         whether a delta between two revisions is worth trying; from their manifests alone
    encoder          the process that makes one delta: `python -m deltaic.transfer.deltas.encoder`
    encoder_process  its other end: starts it, waits, kills it
    making           the queue in front of it: each pair once, however many ask; failures are remembered
    service          what a node that serves deltas is given: shelf, maker, planner
    fetching         the node that wants a revision: packs in, verified chunks out

A delta is an offer: whatever it does not make right is fetched as chunks, and nothing that it makes is believed before
it is hashed.
"""
