"""The tables of rules: kind by kind, on creation, on change of the wish and on change of the status."""

from __future__ import annotations

from collections.abc import Callable

from control.api.custom.defining import check_definition, check_definition_update, check_new_definition
from control.api.meta import Object
from control.api.validation import (
    aggregation,
    autoscaling,
    certificates,
    claims,
    cluster,
    core,
    deviceclaims,
    deviceslices,
    devicestatus,
    endpoints,
    events,
    flow,
    ingress,
    jobs,
    jobstatus,
    mutations,
    network,
    pods,
    podupdates,
    policies,
    quotas,
    resize,
    services,
    statuses,
    storage,
    webhooks,
    workloads,
)
from control.api.validation.faults import Faults

Check = Callable[[Object, Faults], None]
CheckUpdate = Callable[[Object, Object, Faults], None]
_RBAC, _STORAGE, _ADMISSION = "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io"
_NETWORKING, _CERTIFICATES, _FLOW = "networking.k8s.io", "certificates.k8s.io", "flowcontrol.apiserver.k8s.io"
_DEFINITIONS, _DEVICES, _EVENTS = "apiextensions.k8s.io", "resource.k8s.io", "events.k8s.io"

CHECKS: dict[tuple[str, str], Check] = {
    ("", "configmaps"): core.check_config_map,
    ("", "endpoints"): endpoints.check_endpoints,
    ("", "events"): events.check_event,
    ("", "limitranges"): quotas.check_limit_range,
    ("", "namespaces"): core.check_namespace,
    ("", "nodes"): core.check_node,
    ("", "persistentvolumeclaims"): claims.check_claim,
    ("", "persistentvolumes"): claims.check_volume,
    ("", "pods"): pods.check_pod,
    ("", "podtemplates"): workloads.check_pod_template,
    ("", "replicationcontrollers"): workloads.check_replication_controller,
    ("", "resourcequotas"): quotas.check_quota,
    ("", "secrets"): core.check_secret,
    ("", "services"): services.check_service,
    ("apps", "controllerrevisions"): workloads.check_controller_revision,
    ("apps", "daemonsets"): workloads.check_daemon_set,
    ("apps", "deployments"): workloads.check_deployment,
    ("apps", "replicasets"): workloads.check_replica_set,
    ("apps", "statefulsets"): workloads.check_stateful_set,
    ("autoscaling", "horizontalpodautoscalers"): autoscaling.check_autoscaler,
    ("batch", "cronjobs"): jobs.check_cron_job,
    ("batch", "jobs"): jobs.check_job,
    (_CERTIFICATES, "certificatesigningrequests"): certificates.check_signing_request,
    ("coordination.k8s.io", "leases"): core.check_lease,
    ("discovery.k8s.io", "endpointslices"): endpoints.check_endpoint_slice,
    (_EVENTS, "events"): events.check_modern_event,
    (_FLOW, "flowschemas"): flow.check_flow_schema,
    (_FLOW, "prioritylevelconfigurations"): flow.check_priority_level,
    (_NETWORKING, "ingressclasses"): ingress.check_ingress_class,
    (_NETWORKING, "ingresses"): ingress.check_ingress,
    (_NETWORKING, "ipaddresses"): network.check_ip_address,
    (_NETWORKING, "networkpolicies"): network.check_network_policy,
    (_NETWORKING, "servicecidrs"): network.check_service_cidr,
    ("node.k8s.io", "runtimeclasses"): cluster.check_runtime_class,
    ("policy", "poddisruptionbudgets"): workloads.check_disruption_budget,
    (_RBAC, "clusterrolebindings"): cluster.check_cluster_role_binding,
    (_RBAC, "clusterroles"): cluster.check_cluster_role,
    (_RBAC, "rolebindings"): cluster.check_role_binding,
    (_RBAC, "roles"): cluster.check_role,
    (_DEVICES, "deviceclasses"): deviceclaims.check_device_class,
    (_DEVICES, "resourceclaims"): deviceclaims.check_device_claim,
    (_DEVICES, "resourceclaimtemplates"): deviceclaims.check_device_claim_template,
    (_DEVICES, "resourceslices"): deviceslices.check_device_slice,
    ("scheduling.k8s.io", "priorityclasses"): cluster.check_priority_class,
    (_STORAGE, "csidrivers"): storage.check_driver,
    (_STORAGE, "csinodes"): storage.check_driver_node,
    (_STORAGE, "csistoragecapacities"): storage.check_capacity,
    (_STORAGE, "storageclasses"): storage.check_storage_class,
    (_STORAGE, "volumeattachments"): storage.check_attachment,
    (_STORAGE, "volumeattributesclasses"): storage.check_attributes_class,
    (_DEFINITIONS, "customresourcedefinitions"): check_definition,
    (_ADMISSION, "validatingadmissionpolicies"): policies.check_policy,
    (_ADMISSION, "validatingadmissionpolicybindings"): policies.check_policy_binding,
    (_ADMISSION, "mutatingadmissionpolicies"): mutations.check_mutating_policy,
    (_ADMISSION, "mutatingadmissionpolicybindings"): mutations.check_mutating_policy_binding,
    ("apiregistration.k8s.io", "apiservices"): aggregation.check_api_service,
    (_ADMISSION, "mutatingwebhookconfigurations"): webhooks.check_webhooks,
    (_ADMISSION, "validatingwebhookconfigurations"): webhooks.check_webhooks,
}
"""What holds for an object as it stands."""
_RULED: dict[str, str] = {
    "": "configmaps endpoints limitranges namespaces nodes persistentvolumeclaims persistentvolumes pods podtemplates "
    "replicationcontrollers resourcequotas secrets services",
    "apps": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "autoscaling": "horizontalpodautoscalers",
    "batch": "cronjobs jobs",
    "policy": "poddisruptionbudgets",
}
WHOLLY_RULED = frozenset((group, plural) for group, plurals in _RULED.items() for plural in plurals.split())
"""Kinds whose rules above say all; for the others, facts say which fields are required and enumerated."""
NEW_CHECKS: dict[tuple[str, str], Check] = {
    ("apps", "controllerrevisions"): workloads.check_new_controller_revision,
    ("apps", "statefulsets"): workloads.check_new_stateful_set,
    ("batch", "cronjobs"): jobs.check_new_cron_job,
    (_EVENTS, "events"): events.check_new_modern_event,
    (_NETWORKING, "ingresses"): ingress.check_new_ingress,
    (_DEFINITIONS, "customresourcedefinitions"): check_new_definition,
}
"""What is asked of new objects alone."""
KEPT_FOR_GOOD: frozenset[tuple[str, str]] = frozenset({
    ("scheduling.k8s.io", "priorityclasses"), (_NETWORKING, "servicecidrs"), (_DEVICES, "resourceclaims"),
    (_DEVICES, "resourceclaimtemplates"),
})  # fmt: skip
"""Kinds of which a change is asked only whether it is allowed: what may not change was right when it was made."""
CHANGE_FIRST: frozenset[tuple[str, str]] = frozenset({
    ("", "configmaps"), ("", "secrets"), ("", "services"), ("apps", "daemonsets"),
})  # fmt: skip
"""Kinds of which an update is told what may not change before all else."""
UPDATE_CHECKS: dict[tuple[str, str, str], CheckUpdate] = {
    ("", "configmaps", ""): core.check_config_map_update,
    ("", "nodes", ""): core.check_node_update,
    ("", "persistentvolumeclaims", ""): claims.check_claim_update,
    ("", "persistentvolumes", ""): claims.check_volume_update,
    ("", "pods", ""): podupdates.check_pod_update,
    ("", "pods", "ephemeralcontainers"): podupdates.check_ephemeral_update,
    ("", "pods", "resize"): resize.check_pod_resize,
    ("", "resourcequotas", ""): quotas.check_quota_update,
    ("", "secrets", ""): core.check_secret_update,
    ("", "services", ""): services.check_service_update,
    ("apps", "controllerrevisions", ""): workloads.check_controller_revision_update,
    ("apps", "daemonsets", ""): workloads.check_selector_unchanged,
    ("apps", "deployments", ""): workloads.check_selector_unchanged,
    ("apps", "replicasets", ""): workloads.check_selector_unchanged,
    ("apps", "statefulsets", ""): workloads.check_stateful_set_update,
    ("batch", "jobs", ""): jobs.check_job_update,
    (_CERTIFICATES, "certificatesigningrequests", ""): certificates.check_signing_request_update,
    ("discovery.k8s.io", "endpointslices", ""): endpoints.check_endpoint_slice_update,
    (_EVENTS, "events", ""): events.check_modern_event_update,
    (_NETWORKING, "ingressclasses", ""): ingress.check_ingress_class_update,
    (_NETWORKING, "ipaddresses", ""): network.check_ip_address_update,
    (_NETWORKING, "servicecidrs", ""): network.check_service_cidr_update,
    ("node.k8s.io", "runtimeclasses", ""): cluster.check_runtime_class_update,
    (_RBAC, "clusterrolebindings", ""): cluster.check_binding_update,
    (_RBAC, "rolebindings", ""): cluster.check_binding_update,
    (_DEVICES, "resourceclaims", ""): deviceclaims.check_device_claim_update,
    (_DEVICES, "resourceclaimtemplates", ""): deviceclaims.check_device_claim_template_update,
    (_DEVICES, "resourceslices", ""): deviceslices.check_device_slice_update,
    ("scheduling.k8s.io", "priorityclasses", ""): cluster.check_priority_class_update,
    (_STORAGE, "csidrivers", ""): storage.check_driver_update,
    (_STORAGE, "csinodes", ""): storage.check_driver_node_update,
    (_STORAGE, "csistoragecapacities", ""): storage.check_capacity_update,
    (_STORAGE, "storageclasses", ""): storage.check_storage_class_update,
    (_STORAGE, "volumeattachments", ""): storage.check_attachment_update,
    (_STORAGE, "volumeattributesclasses", ""): storage.check_attributes_class_update,
    (_DEFINITIONS, "customresourcedefinitions", ""): check_definition_update,
}
"""What may not change, by the subresource through which it is asked."""
STATUS_CHECKS: dict[tuple[str, str, str], CheckUpdate] = {
    ("", "namespaces", "finalize"): core.check_namespace_finalize,
    ("", "namespaces", "status"): statuses.check_namespace_status,
    ("", "nodes", "status"): statuses.check_node_status,
    ("", "persistentvolumeclaims", "status"): claims.check_claim_status,
    ("", "pods", "status"): podupdates.check_pod_status,
    ("", "replicationcontrollers", "status"): statuses.check_replica_set_status,
    ("", "resourcequotas", "status"): quotas.check_quota_status,
    ("", "services", "status"): statuses.check_service_status,
    ("apps", "daemonsets", "status"): statuses.check_daemon_set_status,
    ("apps", "deployments", "status"): statuses.check_deployment_status,
    ("apps", "replicasets", "status"): statuses.check_replica_set_status,
    ("apps", "statefulsets", "status"): statuses.check_stateful_set_status,
    ("autoscaling", "horizontalpodautoscalers", "status"): autoscaling.check_autoscaler_status,
    ("batch", "jobs", "status"): jobstatus.check_job_status,
    (_CERTIFICATES, "certificatesigningrequests", "approval"): certificates.check_signing_request_approval,
    (_CERTIFICATES, "certificatesigningrequests", "status"): certificates.check_signing_request_status,
    (_FLOW, "flowschemas", "status"): statuses.check_flow_status,
    (_FLOW, "prioritylevelconfigurations", "status"): statuses.check_flow_status,
    (_NETWORKING, "ingresses", "status"): statuses.check_ingress_status,
    ("policy", "poddisruptionbudgets", "status"): statuses.check_budget_status,
    (_DEVICES, "resourceclaims", "status"): devicestatus.check_device_claim_status,
    (_STORAGE, "volumeattachments", "status"): statuses.check_attachment_status,
}
"""What holds for a status that is written, compared with what stood before."""
