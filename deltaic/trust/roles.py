"""Which roles may call which method. A method that is not in this table is refused."""

from deltaic.trust.errors import RoleMissing
from deltaic.trust.identity import Identity, Role

_READERS = frozenset({Role.PUBLISHER, Role.OPERATOR, Role.AUDITOR, Role.NODE})

METHOD_ROLES: dict[str, frozenset[Role]] = {
    "/deltaic.v1.ContentService/FindMissing": frozenset({Role.PUBLISHER, Role.NODE}),
    "/deltaic.v1.ContentService/Read": frozenset({Role.PUBLISHER, Role.NODE}),
    "/deltaic.v1.ContentService/Write": frozenset({Role.PUBLISHER}),
    "/deltaic.v1.ContentService/QueryWrite": frozenset({Role.PUBLISHER}),
    "/deltaic.v1.RegistryService/PublishRevision": frozenset({Role.PUBLISHER}),
    "/deltaic.v1.RegistryService/GetRevision": _READERS,
    "/deltaic.v1.RegistryService/ListRevisions": _READERS,
    "/deltaic.v1.RegistryService/GetChannel": _READERS,
    "/deltaic.v1.RegistryService/ListChannels": _READERS,
    "/deltaic.v1.RegistryService/SetChannel": frozenset({Role.PUBLISHER, Role.OPERATOR}),
    "/deltaic.v1.RegistryService/CreateTag": frozenset({Role.PUBLISHER, Role.OPERATOR}),
    "/deltaic.v1.RegistryService/ListTags": _READERS,
    "/deltaic.v1.RegistryService/DeleteTag": frozenset({Role.PUBLISHER, Role.OPERATOR}),
    "/deltaic.v1.RegistryService/CollectGarbage": frozenset({Role.OPERATOR}),
    "/deltaic.v1.RegistryService/WatchChannels": _READERS,
    "/deltaic.v1.RegistryService/PlanUpdate": _READERS,
    "/deltaic.v1.InferenceService/Generate": frozenset({Role.APPLICATION, Role.NODE, Role.OPERATOR}),
    "/deltaic.v1.InferenceService/Embed": frozenset({Role.APPLICATION, Role.NODE, Role.OPERATOR}),
    "/deltaic.v1.InferenceService/CountTokens": frozenset({Role.APPLICATION, Role.NODE, Role.OPERATOR}),
    "/deltaic.v1.InferenceService/ListModels": frozenset({Role.APPLICATION, Role.NODE, Role.OPERATOR}),
    "/deltaic.v1.WorkerService/Heartbeat": frozenset({Role.NODE}),
    "/deltaic.v1.WorkerService/LoadAdapter": frozenset({Role.NODE}),
    "/deltaic.v1.WorkerService/UnloadAdapter": frozenset({Role.NODE}),
    "/deltaic.v1.FleetService/Report": frozenset({Role.NODE}),
    "/deltaic.v1.FleetService/ListNodes": frozenset({Role.OPERATOR, Role.AUDITOR}),
    "/deltaic.v1.FleetService/GetNode": frozenset({Role.OPERATOR, Role.AUDITOR}),
    "/deltaic.v1.FleetService/DrainNode": frozenset({Role.OPERATOR}),
    "/deltaic.v1.FleetService/ReloadNode": frozenset({Role.OPERATOR}),
    "/deltaic.v1.AuditService/Append": frozenset({Role.NODE}),
    "/deltaic.v1.AuditService/ListEntries": frozenset({Role.OPERATOR, Role.AUDITOR}),
    "/deltaic.v1.AuditService/ProveEntry": frozenset({Role.OPERATOR, Role.AUDITOR}),
}

_PUBLIC_SERVICES = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)


def authorize(identity: Identity, method: str) -> None:
    """`method` is `/package.Service/Method`. Raises RoleMissing."""
    if method.startswith(_PUBLIC_SERVICES):
        return
    allowed = METHOD_ROLES.get(method)
    if allowed is None:
        raise RoleMissing(f"{method} declares no role, so nobody may call it", method=method)
    if not allowed & identity.roles:
        wanted = ", ".join(sorted(allowed))
        raise RoleMissing(
            f"{identity.name} may not call {method}", hint=f"it needs one of the roles {wanted}", method=method
        )
