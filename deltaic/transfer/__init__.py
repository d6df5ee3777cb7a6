"""How bytes travel: sources behind one protocol, planning, resume, progress, and following a channel.

Nothing here trusts a digest that came with the bytes: every chunk is hashed again where it arrives, and a chunk that
was verified is never fetched a second time.
"""
