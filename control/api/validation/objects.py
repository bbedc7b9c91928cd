"""The one door: which rules hold for which kind, on creation and on change."""

from __future__ import annotations

from collections.abc import Callable

from control.api.custom.definition import check_definition, check_definition_update
from control.api.meta import Object
from control.api.resources import Resource, by_plural
from control.api.status import Cause
from control.api.validation import cluster, core, network, pods, policies, workloads
from control.api.validation.faults import Faults
from control.api.validation.generic import check_facts
from control.api.validation.metadata import check_metadata, check_metadata_update
from control.api.validation.resize import check_pod_resize

Check = Callable[[Object, Faults], None]
CheckUpdate = Callable[[Object, Object, Faults], None]
_RBAC, _STORAGE, _ADMISSION = "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io"
_NETWORKING = "networking.k8s.io"

CHECKS: dict[tuple[str, str], Check] = {
    ("", "configmaps"): core.check_config_map,
    ("", "endpoints"): network.check_endpoints,
    ("", "events"): core.check_event,
    ("events.k8s.io", "events"): core.check_event,
    ("", "limitranges"): core.check_limit_range,
    ("", "nodes"): core.check_node,
    ("", "persistentvolumeclaims"): core.check_claim,
    ("", "persistentvolumes"): core.check_volume,
    ("", "pods"): pods.check_pod,
    ("", "podtemplates"): workloads.check_pod_template,
    ("", "replicationcontrollers"): workloads.check_replication_controller,
    ("", "resourcequotas"): core.check_quota,
    ("", "secrets"): core.check_secret,
    ("", "services"): network.check_service,
    ("apps", "controllerrevisions"): workloads.check_controller_revision,
    ("apps", "daemonsets"): workloads.check_daemon_set,
    ("apps", "deployments"): workloads.check_deployment,
    ("apps", "replicasets"): workloads.check_replica_set,
    ("apps", "statefulsets"): workloads.check_stateful_set,
    ("autoscaling", "horizontalpodautoscalers"): workloads.check_autoscaler,
    ("batch", "cronjobs"): workloads.check_cron_job,
    ("batch", "jobs"): workloads.check_job,
    ("certificates.k8s.io", "certificatesigningrequests"): cluster.check_signing_request,
    ("coordination.k8s.io", "leases"): core.check_lease,
    ("discovery.k8s.io", "endpointslices"): network.check_endpoint_slice,
    (_NETWORKING, "ingresses"): network.check_ingress,
    (_NETWORKING, "ipaddresses"): cluster.check_ip_address,
    (_NETWORKING, "networkpolicies"): network.check_network_policy,
    (_NETWORKING, "servicecidrs"): cluster.check_service_cidr,
    ("node.k8s.io", "runtimeclasses"): cluster.check_runtime_class,
    ("policy", "poddisruptionbudgets"): workloads.check_disruption_budget,
    (_RBAC, "clusterrolebindings"): cluster.check_cluster_role_binding,
    (_RBAC, "clusterroles"): cluster.check_cluster_role,
    (_RBAC, "rolebindings"): cluster.check_role_binding,
    (_RBAC, "roles"): cluster.check_role,
    ("scheduling.k8s.io", "priorityclasses"): cluster.check_priority_class,
    (_STORAGE, "storageclasses"): cluster.check_storage_class,
    ("apiextensions.k8s.io", "customresourcedefinitions"): check_definition,
    (_ADMISSION, "validatingadmissionpolicies"): policies.check_policy,
    (_ADMISSION, "validatingadmissionpolicybindings"): policies.check_policy_binding,
    (_ADMISSION, "mutatingwebhookconfigurations"): cluster.check_webhooks,
    (_ADMISSION, "validatingwebhookconfigurations"): cluster.check_webhooks,
}
UPDATE_CHECKS: dict[tuple[str, str], CheckUpdate] = {
    ("", "configmaps"): core.check_config_map_update,
    ("", "nodes"): core.check_node_update,
    ("", "persistentvolumeclaims"): core.check_claim_update,
    ("", "persistentvolumes"): core.check_volume_update,
    ("", "resourcequotas"): core.check_quota_update,
    ("", "secrets"): core.check_secret_update,
    ("", "services"): network.check_service_update,
    ("apps", "controllerrevisions"): workloads.check_controller_revision_update,
    ("apps", "daemonsets"): workloads.check_selector_unchanged,
    ("apps", "deployments"): workloads.check_selector_unchanged,
    ("apps", "replicasets"): workloads.check_selector_unchanged,
    ("apps", "statefulsets"): workloads.check_stateful_set_update,
    ("batch", "jobs"): workloads.check_job_update,
    ("certificates.k8s.io", "certificatesigningrequests"): cluster.check_signing_request_update,
    ("discovery.k8s.io", "endpointslices"): network.check_endpoint_slice_update,
    (_NETWORKING, "ipaddresses"): cluster.check_ip_address_update,
    ("node.k8s.io", "runtimeclasses"): cluster.check_runtime_class_update,
    (_RBAC, "clusterrolebindings"): cluster.check_binding_update,
    (_RBAC, "rolebindings"): cluster.check_binding_update,
    ("scheduling.k8s.io", "priorityclasses"): cluster.check_priority_class_update,
    (_STORAGE, "storageclasses"): cluster.check_storage_class_update,
    ("apiextensions.k8s.io", "customresourcedefinitions"): check_definition_update,
}
_OBJECT_SUBRESOURCES = ("", "ephemeralcontainers", "resize")
"""Updates through these change the wish; all others change status, approval or the like, which only metadata binds."""


def validate(resource: Resource, obj: Object, old: Object | None = None, subresource: str = "") -> list[Cause]:
    """Return the faults of an object that is to be stored in place of ``old``; none means that it may be."""
    faults = Faults()
    name = (resource.group, resource.plural)
    check_metadata(resource, obj, faults)
    if old is not None:
        check_metadata_update(obj, old, faults)
    if subresource not in _OBJECT_SUBRESOURCES:
        return faults.causes
    if old is not None and name == ("", "pods"):
        # What a running pod once passed is not asked of it again, only that it changes where it may.
        if subresource == "":
            pods.check_pod_update(obj, old, faults)
        elif subresource == "ephemeralcontainers":
            pods.check_ephemeral_update(obj, old, faults)
        elif subresource == "resize":
            check_pod_resize(obj, old, faults)
        return faults.causes
    if (check := CHECKS.get(name)) is not None:
        check(obj, faults)
    if old is not None and (check_update := UPDATE_CHECKS.get(name)) is not None:
        check_update(obj, old, faults)
    served = by_plural(resource.group, resource.version, resource.plural)
    if served is not None:
        check_facts(obj, served.definition, faults)
    return faults.causes
