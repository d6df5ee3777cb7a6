"""Deltas: how a holder of file A makes file B, bit for bit, chunk by chunk. Format: docs/formats/delta.md.

    encode      A and B in, an index and packs out; on a center, as many cores as it has
    index       what a delta is made of: segments, parts, packs; checked before anything is believed
    apply       one part: bytes of A and a payload in, one chunk of B out; NumPy and zstandard, bounded memory
    diff, patch whole files, without any service

A chunk goes through `choose` (the shortest codec wins) to `blocks`, `floats` or `requantised`; these are built from
`levels`, `surprises`, `lattice`, `predict`, `halves`, `spans`, `lowrank`, and at the bottom from `numbers` and `sets`.

A part makes exactly one chunk of B (at most 4 MiB), so whatever is known of chunks (verify, resume, repair) is known of
deltas too: what a part makes is believed once its digest is that of the chunk.
"""
