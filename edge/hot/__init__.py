"""The hot set: which models this edge keeps loaded, inside hard budgets of memory.

policy.py      what a model is worth and who makes room: pure, behind a Protocol
rivals.py      the policies that others use, behind the same Protocol
offline.py     the same with knowledge of the future, to measure against
rates.py       how often a model is asked for, now and at this hour of the week
load_costs.py  how many seconds a load takes from where its bytes are
prefetch.py    which model to load before anybody asks
needs.py       how much memory a model will take
page_cache.py  whether a file is near
remembered.py  what of all that a restart knows
occupancy.py   what is loaded and coming, as the policy sees it
failures.py    which revisions did not start a short while ago
patience.py    how long models stay and requests wait
hot_set.py     leases, loads, evictions
tending.py     what it does between requests
"""
