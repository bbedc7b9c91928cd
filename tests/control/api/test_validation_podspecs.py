"""Rules of pods one by one: a small pod, one change, and every fault in Kubernetes' order and words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.api.validating import change_faults, faults_of

POD: dict[str, Any] = {"spec": {"containers": [{"name": "a", "image": "i"}]}}
C, V = "spec.containers[0]", "spec.volumes[0]"
MOUNT = {
    "spec/volumes": [{"name": "v", "emptyDir": {}}],
    "spec/containers/0/volumeMounts": [{"name": "v", "mountPath": "/m"}],
}
LABEL_FORM = "(e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character {LABEL_FORM}"
)
KEY = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def env(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a change that gives the container a variable from a source."""
    return {"spec/containers/0/env": [{"name": "E", "valueFrom": source, **more}]}


def volume(**source: Any) -> dict[str, Any]:
    """Return a change that gives the pod a volume."""
    return {"spec/volumes": [{"name": "v", **source}]}


def mount(**more: Any) -> dict[str, Any]:
    """Return a change that mounts a volume in a way."""
    return {**MOUNT, "spec/containers/0/volumeMounts": [{"name": "v", "mountPath": "/m", **more}]}


Cases = dict[str, tuple[dict[str, Any], list[str]]]
CONTAINERS: Cases = {
    "order of faults": (
        {"spec/containers/0": {"name": "A", "image": " ", "terminationMessagePolicy": "Odd", "imagePullPolicy": "Odd",
                               "livenessProbe": {}}, "spec/containers/1": {"name": "A", "image": "i"}},
        [f'{C}.name: Invalid value: "A": {LABEL}',
         f'{C}.terminationMessagePolicy: Unsupported value: "Odd": supported values: "File", "FallbackToLogsOnError"',
         f'{C}.imagePullPolicy: Unsupported value: "Odd": supported values: "Always", "IfNotPresent", "Never"',
         f"{C}.livenessProbe: Required value: must specify a handler type",
         f'spec.containers[1].name: Invalid value: "A": {LABEL}',
         'spec.containers[1].name: Duplicate value: "A"',
         f'{C}.image: Invalid value: " ": must not have leading or trailing whitespace']),
    "names twice without a name": (
        {"spec/containers": [{"image": "i"}, {"image": "i"}]},
        [f"{C}.name: Required value", "spec.containers[1].name: Required value",
         'spec.containers[1].name: Duplicate value: ""']),
    "init container as a container": (
        {"spec/initContainers": [{"name": "a", "image": "i"}]},
        ['spec.initContainers[0].name: Duplicate value: "a"']),
    "a host's port twice": (
        {"spec/containers/0/ports": [{"containerPort": 1, "hostPort": 8}, {"containerPort": 2, "hostPort": 8}]},
        [f'{C}.ports[1].hostPort: Duplicate value: "TCP//8"']),
    "a host's port twice in the second step": (
        {"spec/initContainers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i", "ports": [
            {"containerPort": 1, "hostPort": 8}, {"containerPort": 2, "hostPort": 8}]}]},
        ['spec.initContainers[0].ports[1].hostPort: Duplicate value: "TCP//8"']),
    "ports": (
        {"spec/containers/0/ports": [{"name": "-A-", "containerPort": 0}, {"containerPort": 65536, "protocol": "X"}]},
        [f'{C}.ports[0].name: Invalid value: "-A-": must contain only alpha-numeric characters (a-z, 0-9), and hyphens '
         "(-)",
         f'{C}.ports[0].name: Invalid value: "-A-": must contain at least one letter (a-z)',
         f'{C}.ports[0].name: Invalid value: "-A-": must not begin or end with a hyphen',
         f"{C}.ports[0].containerPort: Required value",
         f"{C}.ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
         f'{C}.ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"']),
    "a variable's name": (
        {"spec/containers/0/env": [{"name": "a=b"}, {"name": ""}]},
        [f'{C}.env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable '
         "ASCII characters other than '='", f"{C}.env[1].name: Required value"]),
    "a prefix": (
        {"spec/containers/0/envFrom": [{"prefix": "ä", "configMapRef": {"name": "c"}}, {}]},
        [f'{C}.envFrom[0].prefix: Invalid value: "ä": a valid environment variable name must consist only of printable '
         "ASCII characters other than '='",
         f'{C}.envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`']),
    "no source": (
        env({}), [f'{C}.env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, '
                  "`configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"]),
    "a field that only volumes know": (
        env({"fieldRef": {"fieldPath": "metadata.labels"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: '
         '"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", '
         '"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"']),
    "a field that selectors know": (
        env({"fieldRef": {"fieldPath": "status.phase"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: '
         '"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", '
         '"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"']),
    "a field of another version": (
        env({"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v2"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.name": error converting fieldPath: '
         "unsupported pod version: v2"]),
    "a divisor": (
        env({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "10m"}}),
        [f'{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor\'s values 1m and 1 '
         "are supported with the cpu resource"]),
    "a divisor in another form": (env({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}), []),
    "a file in no volume": (
        env({"fileKeyRef": {"volumeName": "v", "path": "../p", "key": "k=v"}}),
        [f'{C}.env[0].valueFrom.fileKeyRef.key: Invalid value: "k=v": a valid environment variable name must consist '
         "only of printable ASCII characters other than '='",
         f"{C}.env[0].valueFrom.fileKeyRef.path: Invalid value: \"../p\": must not contain '..'",
         f'{C}.env[0].valueFrom.fileKeyRef.volumeName: Not found: "v"']),
    "a file in a secret": (
        {**env({"fileKeyRef": {"volumeName": "v", "path": "/p", "key": "k"}}), **volume(secret={"secretName": "s"})},
        [f'{C}.env[0].valueFrom.fileKeyRef.volumeName: Invalid value: "v": referenced volume must be of type emptyDir']),
    "a key of a secret": (
        env({"secretKeyRef": {"name": "S", "key": "..a/"}}),
        [f'{C}.env[0].valueFrom.secretKeyRef.name: Invalid value: "S": a lowercase RFC 1123 subdomain must consist of '
         "lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. "
         "'example.com', regex used for validation is "
         "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
         f'{C}.env[0].valueFrom.secretKeyRef.key: Invalid value: "..a/": a valid config key must consist of '
         "alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for "
         "validation is '[-._a-zA-Z0-9]+')",
         f"{C}.env[0].valueFrom.secretKeyRef.key: Invalid value: \"..a/\": must not start with '..'"]),
    "handlers": (
        {"spec/containers/0/readinessProbe": {"httpGet": {"port": 0, "scheme": "FTP", "httpHeaders": [{"name": "a b"}]},
                                              "exec": {"command": []}, "periodSeconds": -1}},
        [f"{C}.readinessProbe.exec.command: Required value",
         f"{C}.readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
         f"{C}.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"]),
    "a web probe": (
        {"spec/containers/0/startupProbe": {"httpGet": {"port": "A--", "scheme": "FTP", "httpHeaders": [
            {"name": "a b", "value": ""}]}, "successThreshold": 2, "terminationGracePeriodSeconds": 0}},
        [f'{C}.startupProbe.httpGet.port: Invalid value: "A--": {text}' for text in (
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "must contain at least one letter (a-z)", "must not contain consecutive hyphens",
            "must not begin or end with a hyphen")] + [
            f'{C}.startupProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"',
            f'{C}.startupProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of '
            "alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            f"{C}.startupProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            f"{C}.startupProbe.successThreshold: Invalid value: 2: must be 1"]),
    "restart rules": (
        {"spec/containers/0/restartPolicyRules": [{"action": "Odd"}]},
        [f"{C}.restartPolicy: Required value: must specify restartPolicy when restart rules are used",
         f'{C}.restartPolicyRules[0].action: Unsupported value: "Odd": supported values: "Restart", '
         '"RestartAllContainers"',
         f"{C}.restartPolicyRules[0].exitCodes: Required value: must be specified"]),
    "many restart rules": (
        {"spec/containers/0/restartPolicy": "Never", "spec/containers/0/restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}] * 21},
        [f"{C}.restartPolicyRules: Too many: 21: must have at most 20 items"]),
    "resize policies": (
        {"spec/restartPolicy": "Never", "spec/containers/0/resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "gpu", "restartPolicy": "Odd"}]},
        [f'{C}.resizePolicy: Invalid value: "RestartContainer": must be \'NotRequired\' when pod `restartPolicy` is '
         "'Never'",
         f'{C}.resizePolicy[1]: Duplicate value: "cpu"',
         f'{C}.resizePolicy: Unsupported value: "gpu": supported values: "cpu", "memory"',
         f'{C}.resizePolicy: Unsupported value: "Odd": supported values: "NotRequired", "RestartContainer"',
         f'{C}.resizePolicy: Invalid value: "Odd": must be \'NotRequired\' when pod `restartPolicy` is \'Never\'']),
    "a step that restarts to be resized": (
        {"spec/initContainers": [{"name": "x", "image": "i", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]},
        ['spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: "RestartContainer": must not be set to '
         "'RestartContainer' for non-sidecar initContainers"]),
    "sizes": (
        {"spec/containers/0/resources": {"requests": {"cpu": "-500m", "example.com/gpu": "1", "gpu": "1"},
                                         "limits": {"memory": "0.5Gi", "hugepages-2Mi": "3Mi"}}},
        [f'{C}.resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of '
         "hugepages-2Mi",
         f'{C}.resources.requests[cpu]: Invalid value: "-500m": must be greater than or equal to 0',
         f"{C}.resources.limits: Required value: Limit must be set for non overcommitable resources",
         f'{C}.resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified',
         f'{C}.resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers',
         f'{C}.resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of '
         "hugepages-2Mi"]),
    "claims": (
        {"spec/resourceClaims": [{"name": "r", "resourceClaimName": "x"}, {"name": "s", "resourceClaimName": "x"}],
         "spec/containers/0/resources": {"claims": [
             {"name": "q"}, {"name": "r", "request": "one"}, {"name": "r"}, {"name": ""}]}},
        [f'{C}.resources.claims[0]: Not found: "q": must be one of the names in pod.spec.resourceClaims: r, s',
         f'{C}.resources.claims[2]: Duplicate value: "r"', f"{C}.resources.claims[3]: Required value"]),
}  # fmt: skip
VOLUMES: Cases = {
    "a disk's path": (
        volume(gcePersistentDisk={"partition": 300}),
        [f"{V}.persistentDisk.pdName: Required value",
         f"{V}.persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive"]),
    "too many, in order": (
        volume(image={"reference": "r"}, downwardAPI={}, cephfs={"monitors": ["m"]}, emptyDir={"sizeLimit": "-1"}),
        [f"{V}.emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
         f"{V}.cephFS: Forbidden: may not specify more than 1 volume type",
         f"{V}.downwarAPI: Forbidden: may not specify more than 1 volume type",
         f"{V}.image: Forbidden: may not specify more than 1 volume type"]),
    "a reserved path": (
        volume(configMap={"name": "c", "items": [{"key": "k", "path": ".."}]}),
        [f"{V}.configMap.items[0].path: Invalid value: \"..\": must not contain '..'",
         f"{V}.configMap.items[0].path: Invalid value: \"..\": must not start with '..'"]),
    "a host's path": (
        volume(hostPath={"path": "/a/../b", "type": "Odd"}),
        [f"{V}.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
         f'{V}.hostPath.type: Unsupported value: "Odd": supported values: "", "BlockDevice", "CharDevice", "Directory", '
         '"DirectoryOrCreate", "File", "FileOrCreate", "Socket"']),
    "the same path twice": (
        volume(projected={"sources": [
            {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}, "secret": {"name": "t"}}]}),
        [f'{V}.projected: Invalid value: "c": conflicting duplicate paths',
         f"{V}.projected.sources[1]: Forbidden: may not specify more than 1 volume type per source"]),
    "downward": (
        volume(downwardAPI={"items": [{"path": "/p", "mode": 512, "resourceFieldRef": {"resource": "limits.cpu"}}]}),
        [f'{V}.downwardAPI.path: Invalid value: "/p": must be a relative path',
         f"{V}.downwardAPI.resourceFieldRef.containerName: Required value",
         f"{V}.downwardAPI.mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"]),
    "subpaths": (
        mount(subPath="/a", subPathExpr="../b"),
        [f'{C}.volumeMounts.subPath: Invalid value: "/a": must be a relative path',
         f'{C}.volumeMounts[0].subPathExpr: Invalid value: "../b": subPathExpr and subPath are mutually exclusive',
         f"{C}.volumeMounts.subPathExpr: Invalid value: \"../b\": must not contain '..'"]),
    "a subpath of an image": (
        {**mount(subPath="a"), **volume(image={"reference": "r"})}, []),
    "propagation": (
        mount(mountPropagation="Bidirectional", recursiveReadOnly="Enabled"),
        [f"{C}.volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to "
         "privileged containers",
         f"{C}.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
         f"{C}.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not "
         "specified"]),
    "devices": (
        {**volume(persistentVolumeClaim={"claimName": "c"}),
         "spec/containers/0/volumeDevices": [{"name": "v", "devicePath": "/a/../b"}, {"name": "v", "devicePath": ""},
                                             {"devicePath": ""}]},
        [f"{C}.volumeDevices[0].devicePath: Invalid value: \"/a/../b\": can not contain backsteps ('..')",
         f'{C}.volumeDevices[1].name: Invalid value: "v": must be unique',
         f"{C}.volumeDevices[1].devicePath: Required value",
         f"{C}.volumeDevices[2].name: Required value",
         f'{C}.volumeDevices[2].name: Not found: ""',
         f"{C}.volumeDevices[2].devicePath: Required value",
         f'{C}.volumeDevices[2].devicePath: Invalid value: "": must be unique']),
}  # fmt: skip
SPECS: Cases = {
    "addresses": (
        {"spec/hostAliases": [{"ip": "010.0.0.1", "hostnames": ["A"]}, {"ip": "::ffff:1.2.3.4"}, {"ip": "1.2"}]},
        ['spec.hostAliases[0].ip: Invalid value: "010.0.0.1": must not have leading 0s',
         'spec.hostAliases[0].hostnames[0]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower '
         "case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. "
         "'example.com', regex used for validation is "
         "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
         'spec.hostAliases[1].ip: Invalid value: "::ffff:1.2.3.4": must not be an IPv4-mapped IPv6 address',
         'spec.hostAliases[2].ip: Invalid value: "1.2": must be a valid IP address, (e.g. 10.9.8.7 or '
         "2001:db8::ffff)"]),
    "names": (
        {"spec/priorityClassName": "-", "spec/hostname": "a.b", "spec/activeDeadlineSeconds": 0},
        ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
         'spec.hostname: Invalid value: "a.b": must not contain dots',
         'spec.priorityClassName: Invalid value: "-": a lowercase RFC 1123 subdomain must consist of lower case '
         "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. "
         "'example.com', regex used for validation is "
         "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]),
    "a host's name of its own": (
        {"spec/hostnameOverride": "a" * 64 + ".b", "spec/setHostnameAsFQDN": True, "spec/hostNetwork": True},
        ["spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
         "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
         "spec.hostnameOverride: Too long: may not be more than 64 bytes"]),
    "tolerations": (
        {"spec/tolerations": [{"operator": "Gt", "key": "k", "value": "1"}, {"value": "a b"},
                              {"operator": "Odd", "key": "a b", "effect": "Odd"}]},
        ['spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt"',
         'spec.tolerations[1].operator: Invalid value: "": operator must be Exists when `key` is empty, which means '
         '"match all values and all keys"',
         'spec.tolerations[1].operator: Invalid value: "a b": a valid label must be an empty string or consist of '
         "alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. "
         "'MyValue',  or 'my_value',  or '12345', regex used for validation is "
         "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
         f'spec.tolerations[2].key: Invalid value: "a b": name part {KEY}',
         'spec.tolerations[2].operator: Unsupported value: "Odd": supported values: "Equal", "Exists"',
         'spec.tolerations[2].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", '
         '"NoExecute"']),
    "one namespace of processes too many": (
        {"spec/shareProcessNamespace": True, "spec/hostPID": True},
        ["spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot "
         "both be enabled"]),
    "users of its own": (
        {"spec/hostUsers": False, "spec/hostIPC": True, **volume(persistentVolumeClaim={"claimName": "c"}),
         "spec/containers/0/volumeDevices": [{"name": "v", "devicePath": "/d"}]},
        ["spec.HostIPC: Forbidden: when `hostUsers` is false",
         f"{C}.volumeDevices: Forbidden: when `hostUsers` is false"]),
    "windows": (
        {"spec/os": {"name": "windows"}, "spec/hostPID": True, "spec/resources": {"requests": {"cpu": "1"}},
         "spec/securityContext": {"runAsUser": 1, "fsGroup": 1, "seLinuxOptions": {}}},
        ["spec.resources: Forbidden: may not be set for a windows pod",
         "spec.securityContext.seLinuxOptions: Forbidden: cannot be set for a windows pod",
         "spec.hostPID: Forbidden: cannot be set for a windows pod",
         "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
         "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"]),
    "no system": ({"spec/os": {}}, ["spec.os.name: Required value"]),
    "a whole smaller than its parts": (
        {"spec/resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}, "claims": []},
         "spec/containers/0/resources": {"requests": {"cpu": "800m"}, "limits": {"cpu": "3"}},
         "spec/initContainers": [{"name": "x", "image": "i", "restartPolicy": "Always",
                                  "resources": {"requests": {"cpu": "500m"}}}]},
        ['spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container '
         "requests of 1300m",
         'spec.resources.containers[0][cpu].limits: Invalid value: "3": must be less than or equal to pod limits of '
         "2"]),
    "labels that stand twice": (
        {"metadata/labels": {"k": "v"}, "spec/topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["x", "k"],
             "labelSelector": {"matchLabels": {"k": "v"}}}]},
        ['spec.topologySpreadConstraints[0][1]: Invalid value: "k": exists in both matchLabelKeys and labelSelector']),
    "labels without a selector": (
        {"spec/affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "t", "matchLabelKeys": ["k"], "mismatchLabelKeys": ["k"]}]}}},
        [f"spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].{text}" for text in (
            "matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            "mismatchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            'matchLabelKeys[0]: Invalid value: "k": exists in both matchLabelKeys and mismatchLabelKeys')]),
    "resolvers": (
        {"spec/dnsPolicy": "None", "spec/dnsConfig": {"nameservers": ["1.1.1.1", "x"], "searches": ["a b", ".", "_a.b."],
                                                      "options": [{"value": "v"}]}},
        ['spec.dnsConfig.nameservers[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or '
         "2001:db8::ffff)",
         'spec.dnsConfig.searches[0]: Invalid value: "a b": a lowercase RFC 1123 subdomain must consist of lower case '
         "alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. "
         "'example.com', regex used for validation is "
         "'_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
         "spec.dnsConfig.options[0]: Required value: must not be empty"]),
    "gates": (
        {"spec/schedulingGates": [{"name": "a"}, {"name": "a"}], "spec/nodeName": "n"},
        ['spec.schedulingGates[1]: Duplicate value: "a"',
         "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"]),
    "a mirror's claims": (
        {"metadata/annotations": {"kubernetes.io/config.mirror": "x"}, "spec/nodeName": "n",
         "spec/resourceClaims": [{"name": "r"}]},
        [": Forbidden: static pods do not support resource claims"]),
    "old annotations": (
        {"metadata/annotations": {
            "container.seccomp.security.alpha.kubernetes.io/a": "odd", "seccomp.security.alpha.kubernetes.io/pod": "localhost//x",
            "container.apparmor.security.beta.kubernetes.io/b": "odd"}},
        ['metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: "/x": must be a relative path',
         'metadata.annotations.container.seccomp.security.alpha.kubernetes.io/a: Invalid value: "odd": must be a valid '
         "seccomp profile",
         'metadata.annotations[container.apparmor.security.beta.kubernetes.io/b]: Invalid value: "b": container not '
         "found",
         'metadata.annotations[container.apparmor.security.beta.kubernetes.io/b]: Invalid value: "odd": invalid '
         'AppArmor profile name: "odd"']),
    "annotation and field": (
        {"metadata/annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined",
                                  "container.seccomp.security.alpha.kubernetes.io/a": "localhost/x"},
         "spec/containers/0/securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}, "seccompProfile": {
             "type": "Localhost", "localhostProfile": "y"}}},
        [f"{C}.securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must "
         "match",
         f"{C}.securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"]),
}  # fmt: skip
ALL: Cases = {**CONTAINERS, **VOLUMES, **SPECS}


def test_the_pod_itself_is_right() -> None:
    assert faults_of("/pods", POD) == []


@pytest.mark.parametrize("name", ALL)
def test_all_faults_are_told_in_order(name: str) -> None:
    changes, wanted = ALL[name]
    assert faults_of("/pods", POD, changes) == wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"spec/activeDeadlineSeconds": 0},
         ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"]),
        ({"metadata/annotations": {"kubernetes.io/config.mirror": "x"}},
         ['metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod '
          "annotation is set",
          "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"]),
        ({"spec/tolerations/3": {"operator": "Odd", "key": "k"}}, [
            'spec.tolerations[3].operator: Unsupported value: "Odd": supported values: "Equal", "Exists"'] * 2),
    ],
    ids=["a deadline of nothing", "a mirror", "a toleration"],
)  # fmt: skip
def test_a_changed_pod_is_checked_as_a_whole(changes: dict[str, Any], wanted: list[str]) -> None:
    tolerations = [{"key": str(number), "operator": "Exists"} for number in range(3)]
    found = change_faults("/pods", POD, changes, before={"spec/tolerations": tolerations})
    assert found[: len(wanted)] == wanted
