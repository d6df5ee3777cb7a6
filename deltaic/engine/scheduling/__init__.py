"""Who decodes what, and when. Pure: no llama.cpp, no clock, no threads; times and what came out are arguments.

Scheduler.add       a request joins the queue, or is refused                    queueing.py, shares.py
Scheduler.admit     waiting requests get slots; what happens to their memory    memory.py, prefixes.py, moves.py
Scheduler.schedule  the tokens of the next decode call                          pace.py
Scheduler.update    what came out of it
"""
