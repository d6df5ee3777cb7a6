"""A file as pieces in a folder, for carrying it by any means, and back. Format: docs/formats/pieces.md.

    plan     where a file is cut: by tensor, by layer, by size
    index    what a folder of pieces says of itself; checked before anything is believed
    split    a file in, a folder out
    join     a folder in, the file out, verified as a whole before it gets its name

Both streams hold a few megabytes. Neither keeps a journal: what is in place is found again by reading it, so a killed
split or join goes on where it was, and nothing can disagree with the bytes.
"""
