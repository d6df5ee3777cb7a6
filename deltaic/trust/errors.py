"""Errors of trust.

PermissionDenied
└── RoleMissing           the caller's roles do not cover the method, or the method declares none
DataLoss
└── ChainBroken           an audit log whose hashes do not follow from each other
"""

from deltaic.errors import DataLoss, PermissionDenied


class RoleMissing(PermissionDenied):
    reason = "ROLE_MISSING"


class ChainBroken(DataLoss):
    reason = "AUDIT_CHAIN_BROKEN"
