"""The roles that every cluster starts with, as tables.

One line is one rule: verbs | API groups | resources | resource names. `core` is the empty group; a line whose
group is `url` names paths instead of resources. `read`, `write` and `all` stand for upstream's usual verb sets.
The roles under `system:controller:` belong to one controller each; the user of our controller manager, which
runs all of them under one name, is bound to their union (`bootstrap.py`).
"""

from __future__ import annotations

NODE_RULES = """
create | authentication.k8s.io | tokenreviews
create | authorization.k8s.io | subjectaccessreviews localsubjectaccessreviews
read | core | services
create get list watch | core | nodes
update patch | core | nodes/status
update patch | core | nodes
create update patch | core | events
read | core | pods
create delete | core | pods
update patch | core | pods/status
create | core | pods/eviction
read | core | secrets configmaps
get | core | persistentvolumeclaims persistentvolumes
get | core | endpoints
create get list watch | certificates.k8s.io | certificatesigningrequests
get create update patch delete | coordination.k8s.io | leases
get | storage.k8s.io | volumeattachments
get update patch | core | persistentvolumeclaims/status
create | core | serviceaccounts/token
read | storage.k8s.io | csidrivers
get create update patch delete | storage.k8s.io | csinodes
read | node.k8s.io | runtimeclasses
get | resource.k8s.io | resourceclaims
deletecollection | resource.k8s.io | resourceslices
create get list watch update patch delete | resource.k8s.io | resourceslices
read | certificates.k8s.io | clustertrustbundles
"""

_EVENTS = "create update patch | core,events.k8s.io | events"

CLUSTER_ROLES: dict[str, str] = {
    "cluster-admin": """
        * | * | *
        * | url | *
    """,
    "system:discovery": """
        get | url | /livez /readyz /healthz /version /version/ /openapi /openapi/* /api /api/* /apis /apis/*
    """,
    "system:monitoring": """
        get | url | /metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/*
    """,
    "system:basic-user": """
        create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews
        create | authentication.k8s.io | selfsubjectreviews
    """,
    "system:public-info-viewer": """
        get | url | /livez /readyz /healthz /version /version/
    """,
    "system:service-account-issuer-discovery": """
        get | url | /.well-known/openid-configuration /.well-known/openid-configuration/
        get | url | /openid/v1/jwks /openid/v1/jwks/
    """,
    "system:aggregate-to-admin": """
        create | authorization.k8s.io | localsubjectaccessreviews
        all | rbac.authorization.k8s.io | roles rolebindings
    """,
    "system:aggregate-to-edit": """
        read | core | pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy
        impersonate | core | serviceaccounts
        write | core | pods pods/attach pods/proxy pods/exec pods/portforward
        create | core | pods/eviction
        write | core | replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy
        write | core | persistentvolumeclaims configmaps secrets events
        create | core | serviceaccounts/token
        write | apps | statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback
        write | apps | replicasets replicasets/scale
        write | autoscaling | horizontalpodautoscalers
        write | batch | jobs cronjobs
        write | extensions | daemonsets deployments deployments/scale deployments/rollback ingresses networkpolicies
        write | extensions | replicasets replicasets/scale replicationcontrollers/scale
        write | policy | poddisruptionbudgets
        write | networking.k8s.io | networkpolicies ingresses
        all | coordination.k8s.io | leases
    """,
    "system:aggregate-to-view": """
        read | core | pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status
        read | core | endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps
        read | core | limitranges resourcequotas bindings events pods/status resourcequotas/status namespaces/status
        read | core | replicationcontrollers/status pods/log
        read | core | namespaces
        read | discovery.k8s.io | endpointslices
        read | apps | controllerrevisions statefulsets statefulsets/status statefulsets/scale
        read | apps | daemonsets daemonsets/status deployments deployments/status deployments/scale
        read | apps | replicasets replicasets/status replicasets/scale
        read | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status
        read | batch | jobs cronjobs cronjobs/status jobs/status
        read | extensions | daemonsets daemonsets/status deployments deployments/scale deployments/status
        read | extensions | ingresses ingresses/status replicasets replicasets/scale replicasets/status
        read | extensions | replicationcontrollers/scale networkpolicies
        read | policy | poddisruptionbudgets poddisruptionbudgets/status
        read | networking.k8s.io | networkpolicies ingresses ingresses/status
    """,
    "system:heapster": """
        read | core | events pods nodes namespaces
        read | extensions | deployments
    """,
    "system:node": NODE_RULES,
    "system:node-problem-detector": f"""
        get | core | nodes
        patch | core | nodes/status
        {_EVENTS}
    """,
    "system:kubelet-api-admin": """
        read | core | nodes
        proxy | core | nodes
        * | core | nodes/proxy nodes/metrics nodes/stats nodes/log nodes/pods nodes/healthz nodes/configz
    """,
    "system:node-bootstrapper": """
        create get list watch | certificates.k8s.io | certificatesigningrequests
    """,
    "system:auth-delegator": """
        create | authentication.k8s.io | tokenreviews
        create | authorization.k8s.io | subjectaccessreviews
    """,
    "system:kube-aggregator": """
        read | core | services endpoints
    """,
    "system:kube-controller-manager": f"""
        {_EVENTS}
        create | coordination.k8s.io | leases
        get update | coordination.k8s.io | leases | kube-controller-manager
        create | core | secrets serviceaccounts
        delete | core | secrets
        get | core | namespaces secrets serviceaccounts configmaps
        update | core | secrets serviceaccounts
        create | authentication.k8s.io | tokenreviews
        create | authorization.k8s.io | subjectaccessreviews
        list watch | * | *
        create | core | serviceaccounts/token
    """,
    "system:kube-dns": """
        list watch | core | endpoints services
    """,
    "system:kube-scheduler": f"""
        {_EVENTS}
        create | coordination.k8s.io | leases
        get update | coordination.k8s.io | leases | kube-scheduler
        create get list update watch | coordination.k8s.io | leasecandidates
        read | core | nodes
        get list watch delete | core | pods
        create | core | pods/binding bindings
        patch update | core | pods/status
        read | core | services replicationcontrollers
        read | apps,extensions | replicasets
        read | apps | statefulsets
        read | policy | poddisruptionbudgets
        read | core | persistentvolumeclaims persistentvolumes
        create | authentication.k8s.io | tokenreviews
        create | authorization.k8s.io | subjectaccessreviews
        read | storage.k8s.io | csinodes csidrivers csistoragecapacities volumeattachments
        read | core | namespaces
        read | resource.k8s.io | deviceclasses resourceclaims resourceslices
        update patch | resource.k8s.io | resourceclaims/status
    """,
    "system:volume-scheduler": """
        get list watch update patch | core | persistentvolumes
        read | storage.k8s.io | storageclasses
        get list watch update patch | core | persistentvolumeclaims
    """,
    "system:node-proxier": f"""
        list watch | core | services endpoints
        read | core | nodes
        {_EVENTS}
        list watch | discovery.k8s.io | endpointslices
        list watch | networking.k8s.io | servicecidrs
    """,
    "system:persistent-volume-provisioner": f"""
        get list watch create patch delete | core | persistentvolumes
        get list watch update patch | core | persistentvolumeclaims
        read | storage.k8s.io | storageclasses
        watch | core | events
        {_EVENTS}
    """,
    "system:certificates.k8s.io:certificatesigningrequests:nodeclient": """
        create | certificates.k8s.io | certificatesigningrequests/nodeclient
    """,
    "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient": """
        create | certificates.k8s.io | certificatesigningrequests/selfnodeclient
    """,
    "system:certificates.k8s.io:legacy-unknown-approver": """
        approve | certificates.k8s.io | signers | kubernetes.io/legacy-unknown
    """,
    "system:certificates.k8s.io:kubelet-serving-approver": """
        approve | certificates.k8s.io | signers | kubernetes.io/kubelet-serving
    """,
    "system:certificates.k8s.io:kube-apiserver-client-approver": """
        approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client
    """,
    "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver": """
        approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet
    """,
    # The cloud controller manager's rights; upstream leaves them to each provider's manifests.
    "system:cloud-controller-manager": f"""
        {_EVENTS}
        get create update | coordination.k8s.io | leases
        get list watch update patch delete | core | nodes
        update patch | core | nodes/status
        get list watch update patch | core | services
        update patch | core | services/status
        read | core | pods endpoints namespaces configmaps secrets
        read | discovery.k8s.io | endpointslices
        get list watch update patch | core | persistentvolumes
        create get | core | serviceaccounts
        create | core | serviceaccounts/token
        create | authentication.k8s.io | tokenreviews
        create | authorization.k8s.io | subjectaccessreviews
    """,
    # What a node's network daemon reads: pods, policies, peers and names, and nothing that it could change but events.
    "raftsman:cni": f"""
        read | core | nodes pods namespaces services
        read | discovery.k8s.io | endpointslices
        read | networking.k8s.io | networkpolicies
        {_EVENTS}
    """,
    # Whose requests for the certificates of a node's own components are approved without a person.
    "raftsman:node-component": """
        create | certificates.k8s.io | certificatesigningrequests/nodecomponent
    """,
    "raftsman:node-serving": """
        create | certificates.k8s.io | certificatesigningrequests/selfnodeserver
    """,
}

AGGREGATED_ROLES: dict[str, str | None] = {"admin": None, "edit": "admin", "view": "edit"}
"""Roles that are the union of those labelled aggregate-to-<name>, each with the role that takes it in turn."""

CONTROLLER_ROLES: dict[str, str] = {
    "attachdetach-controller": f"""
        list watch | core | persistentvolumes persistentvolumeclaims pods
        read | core | nodes
        patch update | core | nodes/status
        {_EVENTS}
        get create delete list watch | storage.k8s.io | volumeattachments
        read | storage.k8s.io | csidrivers csinodes
    """,
    "clusterrole-aggregation-controller": """
        escalate get list watch update patch | rbac.authorization.k8s.io | clusterroles
    """,
    "cronjob-controller": f"""
        get list watch update | batch | cronjobs
        get list watch create update delete patch | batch | jobs
        update | batch | cronjobs/status cronjobs/finalizers
        list delete | core | pods
        {_EVENTS}
    """,
    "daemon-set-controller": f"""
        read | extensions,apps | daemonsets
        update | extensions,apps | daemonsets/status daemonsets/finalizers
        list watch | core | nodes
        list watch create delete patch | core | pods
        create | core | pods/binding
        get list watch create delete update patch | apps | controllerrevisions
        {_EVENTS}
    """,
    "deployment-controller": f"""
        get list watch update | extensions,apps | deployments
        update | extensions,apps | deployments/status deployments/finalizers
        get list watch create update patch delete | apps,extensions | replicasets
        get list watch update | core | pods
        {_EVENTS}
    """,
    "disruption-controller": f"""
        read | extensions,apps | deployments replicasets
        read | core | replicationcontrollers
        read | policy | poddisruptionbudgets
        read | apps | statefulsets
        update | policy | poddisruptionbudgets/status
        patch update | core | pods/status
        get | * | */scale
        {_EVENTS}
    """,
    "endpoint-controller": f"""
        read | core | services pods
        get list create update delete | core | endpoints
        create | core | endpoints/restricted
        {_EVENTS}
    """,
    "endpointslice-controller": f"""
        read | core | services pods nodes
        update | core | services/finalizers
        get list create update delete | discovery.k8s.io | endpointslices
        create | discovery.k8s.io | endpointslices/restricted
        {_EVENTS}
    """,
    "endpointslicemirroring-controller": f"""
        read | core | services endpoints
        update | core | services/finalizers endpoints/finalizers
        get list create update delete | discovery.k8s.io | endpointslices
        create | discovery.k8s.io | endpointslices/restricted
        {_EVENTS}
    """,
    "expand-controller": f"""
        get list watch update patch | core | persistentvolumes
        update patch | core | persistentvolumeclaims/status
        read | core | persistentvolumeclaims
        read | storage.k8s.io | storageclasses
        {_EVENTS}
    """,
    "ephemeral-volume-controller": f"""
        read | core | pods
        update | core | pods/finalizers
        get list watch create | core | persistentvolumeclaims
        {_EVENTS}
    """,
    "generic-garbage-collector": f"""
        get list watch patch update delete | * | *
        {_EVENTS}
    """,
    "horizontal-pod-autoscaler": f"""
        read | autoscaling | horizontalpodautoscalers
        update | autoscaling | horizontalpodautoscalers/status
        get update | * | */scale
        list | core | pods
        list | metrics.k8s.io | pods
        get list | custom.metrics.k8s.io | *
        get list | external.metrics.k8s.io | *
        {_EVENTS}
    """,
    "job-controller": f"""
        get list watch update patch | batch | jobs
        update | batch | jobs/status jobs/finalizers
        list watch create delete patch | core | pods
        {_EVENTS}
    """,
    "namespace-controller": """
        get list watch delete | core | namespaces
        update | core | namespaces/finalize namespaces/status
        get list delete deletecollection | * | *
    """,
    "node-controller": f"""
        get list update delete patch | core | nodes
        patch update | core | nodes/status
        patch update | core | pods/status
        list get delete | core | pods
        {_EVENTS}
    """,
    "persistent-volume-binder": f"""
        get list watch update create delete | core | persistentvolumes
        update | core | persistentvolumes/status
        get list watch update | core | persistentvolumeclaims
        update | core | persistentvolumeclaims/status
        list watch get create delete | core | pods
        read | storage.k8s.io | storageclasses
        get list | core | nodes
        watch | core | events
        {_EVENTS}
    """,
    "pod-garbage-collector": """
        list watch delete | core | pods
        get list | core | nodes
        patch | core | pods/status
    """,
    "replicaset-controller": f"""
        get list watch update | apps,extensions | replicasets
        update | apps,extensions | replicasets/status replicasets/finalizers
        list watch patch create delete | core | pods
        {_EVENTS}
    """,
    "replication-controller": f"""
        get list watch update | core | replicationcontrollers
        update | core | replicationcontrollers/status replicationcontrollers/finalizers
        list watch patch create delete | core | pods
        {_EVENTS}
    """,
    "resourcequota-controller": f"""
        list watch | * | *
        update | core | resourcequotas/status
        {_EVENTS}
    """,
    "route-controller": f"""
        list watch | core | nodes
        patch | core | nodes/status
        {_EVENTS}
    """,
    "service-account-controller": f"""
        create | core | serviceaccounts
        {_EVENTS}
    """,
    "service-controller": f"""
        read | core | services
        patch update | core | services/status
        list watch | core | nodes
        {_EVENTS}
    """,
    "service-cidrs-controller": f"""
        get list watch patch update | networking.k8s.io | servicecidrs
        patch update | networking.k8s.io | servicecidrs/finalizers servicecidrs/status
        read | networking.k8s.io | ipaddresses
        {_EVENTS}
    """,
    "statefulset-controller": f"""
        list watch | core | pods
        read | apps | statefulsets
        update | apps | statefulsets/status statefulsets/finalizers
        get create delete update patch | core | pods
        get create delete update patch list watch | apps | controllerrevisions
        get create update delete | core | persistentvolumeclaims
        {_EVENTS}
    """,
    "ttl-controller": f"""
        update patch list watch | core | nodes
        {_EVENTS}
    """,
    "certificate-controller": f"""
        get list watch delete | certificates.k8s.io | certificatesigningrequests
        update | certificates.k8s.io | certificatesigningrequests/status certificatesigningrequests/approval
        approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet
        sign | certificates.k8s.io | signers | kubernetes.io/legacy-unknown kubernetes.io/kube-apiserver-client
        sign | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving
        create | authorization.k8s.io | subjectaccessreviews
        {_EVENTS}
    """,
    "pvc-protection-controller": f"""
        get list watch update | core | persistentvolumeclaims
        read | core | pods
        {_EVENTS}
    """,
    "pv-protection-controller": f"""
        get list watch update | core | persistentvolumes
        {_EVENTS}
    """,
    "ttl-after-finished-controller": f"""
        get list watch delete | batch | jobs
        {_EVENTS}
    """,
    "root-ca-cert-publisher": f"""
        create update | core | configmaps
        {_EVENTS}
    """,
    "legacy-service-account-token-cleaner": """
        get | core | configmaps | kube-apiserver-legacy-service-account-token-tracking
        patch delete | core | secrets
    """,
}

RAFTSMAN_CONTROLLER_RULES = """
get create update | coordination.k8s.io | leases
read | core | secrets configmaps
get create update patch delete | core | endpoints
get create update patch delete | discovery.k8s.io | endpointslices
get create update delete list watch | networking.k8s.io | ipaddresses
approve sign | certificates.k8s.io | signers | kubernetes.io/kubelet-serving raftsman.dev/node-component
patch | certificates.k8s.io | certificatesigningrequests certificatesigningrequests/status
patch | certificates.k8s.io | certificatesigningrequests/approval
patch delete | core | secrets
read | admissionregistration.k8s.io | validatingadmissionpolicies
get update patch | admissionregistration.k8s.io | validatingadmissionpolicies/status
get | apiextensions.k8s.io | customresourcedefinitions
"""
"""What our controllers do beyond upstream's tables: they approve serving certificates of known nodes, and patch."""

NAMESPACE_ROLES: dict[tuple[str, str], str] = {
    ("kube-system", "extension-apiserver-authentication-reader"): """
        read | core | configmaps | extension-apiserver-authentication
    """,
    # Who answers for a load balancer's address: the Leases have a namespace that holds nothing else.
    ("raftsman-announce", "raftsman:announce"): """
        get list watch create update delete | coordination.k8s.io | leases
    """,
    ("kube-system", "system:controller:bootstrap-signer"): """
        read | core | secrets
    """,
    ("kube-system", "system:controller:cloud-provider"): """
        create get list watch | core | configmaps
    """,
    ("kube-system", "system:controller:token-cleaner"): f"""
        get list watch delete | core | secrets
        {_EVENTS}
    """,
    ("kube-system", "system::leader-locking-kube-controller-manager"): """
        watch | core | configmaps
        get update | core | configmaps | kube-controller-manager
    """,
    ("kube-system", "system::leader-locking-kube-scheduler"): """
        watch | core | configmaps
        get update | core | configmaps | kube-scheduler
    """,
    ("kube-public", "system:controller:bootstrap-signer"): f"""
        read | core | configmaps
        update | core | configmaps | cluster-info
        {_EVENTS}
    """,
}
