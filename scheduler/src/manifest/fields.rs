//! Which fields berth honours, warns of and refuses.
//!
//! A pod that runs somewhere else than a cluster cannot honour every field of
//! its spec. The rule is that none is dropped in silence: each field of the
//! types below stands in one of these tables, a test compares the tables with
//! the types' schemas, and `docs/pod-fields.md` is printed from them.
//!
//! *Warned* is for fields that place or rank a pod among others: the pod runs as
//! well without them. *Refused* is for fields whose loss would change what the
//! pod is: its data, its isolation, its identity.

use std::fmt::Write;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Done as Kubernetes does it.
    Honoured,
    /// Read, named in a warning, and left aside.
    Warned,
    /// An error.
    Refused,
}

/// One field of one type.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The field's name in a manifest.
    pub name: &'static str,
    /// What becomes of it.
    pub judgement: Judgement,
    /// Values that mean the same as leaving the field out.
    pub harmless: &'static [&'static str],
    /// What happens instead, or how it is honoured.
    pub note: &'static str,
}

/// The fields of one type.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The name of the type's schema.
    pub definition: &'static str,
    /// All its fields.
    pub fields: &'static [Field],
}

const fn honoured(name: &'static str, note: &'static str) -> Field {
    Field {
        name,
        judgement: Judgement::Honoured,
        harmless: &[],
        note,
    }
}

const fn warned(name: &'static str, note: &'static str) -> Field {
    Field {
        name,
        judgement: Judgement::Warned,
        harmless: &[],
        note,
    }
}

const fn refused(name: &'static str, note: &'static str) -> Field {
    Field {
        name,
        judgement: Judgement::Refused,
        harmless: &[],
        note,
    }
}

const fn unless(field: Field, harmless: &'static [&'static str]) -> Field {
    Field { harmless, ..field }
}

const NO_CLUSTER: &str = "a pod on one machine is not scheduled";
const NO_SUCH_VOLUME: &str = "this kind of volume needs a cluster or a driver; use hostPath, emptyDir, configMap, secret, downwardAPI or projected";
const NO_WINDOWS: &str = "berth runs Linux containers";

/// Every judged type.
pub const TABLES: &[Table] = &[
    Table {
        definition: "io.k8s.api.core.v1.PodSpec",
        fields: POD_SPEC,
    },
    Table {
        definition: "io.k8s.api.core.v1.Container",
        fields: CONTAINER,
    },
    Table {
        definition: "io.k8s.api.core.v1.PodSecurityContext",
        fields: POD_SECURITY,
    },
    Table {
        definition: "io.k8s.api.core.v1.SecurityContext",
        fields: SECURITY,
    },
    Table {
        definition: "io.k8s.api.core.v1.Volume",
        fields: VOLUME,
    },
    Table {
        definition: "io.k8s.api.core.v1.VolumeProjection",
        fields: PROJECTION,
    },
    Table {
        definition: "io.k8s.api.core.v1.VolumeMount",
        fields: VOLUME_MOUNT,
    },
    Table {
        definition: "io.k8s.api.core.v1.EmptyDirVolumeSource",
        fields: EMPTY_DIR,
    },
    Table {
        definition: "io.k8s.api.core.v1.ProjectedVolumeSource",
        fields: PROJECTED,
    },
    Table {
        definition: "io.k8s.api.core.v1.EnvVarSource",
        fields: ENV_SOURCE,
    },
    Table {
        definition: "io.k8s.api.core.v1.ResourceRequirements",
        fields: RESOURCES,
    },
    Table {
        definition: "io.k8s.api.core.v1.HTTPGetAction",
        fields: HTTP_GET,
    },
    Table {
        definition: "io.k8s.api.core.v1.GRPCAction",
        fields: GRPC,
    },
    Table {
        definition: "io.k8s.api.core.v1.Lifecycle",
        fields: LIFECYCLE,
    },
    Table {
        definition: "io.k8s.api.apps.v1.DeploymentSpec",
        fields: DEPLOYMENT,
    },
    Table {
        definition: "io.k8s.api.batch.v1.JobSpec",
        fields: JOB,
    },
];

const POD_SPEC: &[Field] = &[
    honoured(
        "activeDeadlineSeconds",
        "the pod fails with reason DeadlineExceeded",
    ),
    warned("affinity", NO_CLUSTER),
    unless(
        warned("automountServiceAccountToken", "no token is mounted"),
        &["false"],
    ),
    honoured("containers", "in parallel"),
    honoured("dnsConfig", "added to what dnsPolicy gives"),
    honoured(
        "dnsPolicy",
        "ClusterFirst is Default here, as there is no cluster DNS",
    ),
    unless(
        warned("enableServiceLinks", "there are no Services to name"),
        &["false"],
    ),
    refused(
        "ephemeralContainers",
        "they are added to a running pod; use `berth exec`",
    ),
    warned("evictionResponders", NO_CLUSTER),
    honoured("hostAliases", "written to /etc/hosts"),
    honoured("hostIPC", "the machine's IPC namespace"),
    honoured("hostNetwork", "the machine's network namespace"),
    honoured("hostPID", "the machine's PID namespace"),
    honoured(
        "hostUsers",
        "false: a user namespace with 65536 ids of its own",
    ),
    honoured("hostname", "else the pod's name"),
    honoured("hostnameOverride", "wins over hostname and subdomain"),
    honoured("imagePullSecrets", "Secrets of the same source"),
    honoured(
        "initContainers",
        "in order; restartPolicy Always makes a sidecar",
    ),
    warned("nodeName", "the pod runs on this machine"),
    warned("nodeSelector", "the pod runs on this machine"),
    unless(refused("os", NO_WINDOWS), &["{\"name\":\"linux\"}"]),
    warned("overhead", "no runtime class adds any"),
    warned("preemptionPolicy", NO_CLUSTER),
    warned("priority", NO_CLUSTER),
    warned("priorityClassName", NO_CLUSTER),
    refused(
        "readinessGates",
        "nothing here could set such a condition, the pod would never be ready",
    ),
    refused("resourceClaims", "there is no device driver to ask"),
    honoured("resources", "limits of the pod as a whole"),
    honoured("restartPolicy", "Always, OnFailure, Never"),
    honoured(
        "runtimeClassName",
        "a handler of the engine; in a cluster, by a RuntimeClass",
    ),
    unless(warned("schedulerName", NO_CLUSTER), &["default-scheduler"]),
    refused("schedulingGates", "nothing here could lift such a gate"),
    warned("schedulingGroup", NO_CLUSTER),
    honoured("securityContext", "see PodSecurityContext"),
    unless(
        warned(
            "serviceAccount",
            "there is no API server that would know it",
        ),
        &["default"],
    ),
    unless(
        warned(
            "serviceAccountName",
            "there is no API server that would know it",
        ),
        &["default"],
    ),
    honoured(
        "setHostnameAsFQDN",
        "the hostname is HOSTNAME.SUBDOMAIN.NAMESPACE.svc.cluster.local",
    ),
    honoured(
        "shareProcessNamespace",
        "one PID namespace for all containers",
    ),
    honoured("subdomain", "part of the name in /etc/hosts"),
    honoured("terminationGracePeriodSeconds", "30 if left out"),
    warned("tolerations", NO_CLUSTER),
    warned("topologySpreadConstraints", NO_CLUSTER),
    honoured("volumes", "see Volume"),
];

const CONTAINER: &[Field] = &[
    honoured("args", "with $(VAR) replaced"),
    honoured("command", "with $(VAR) replaced"),
    honoured("env", "with $(VAR) replaced"),
    honoured("envFrom", "ConfigMaps and Secrets of the same source"),
    honoured("image", "pulled by imagePullPolicy"),
    honoured(
        "imagePullPolicy",
        "Always for :latest and no tag, else IfNotPresent",
    ),
    honoured("lifecycle", "see Lifecycle"),
    honoured("livenessProbe", "kills and restarts"),
    honoured("name", "unique in the pod"),
    honoured("ports", "hostPort is opened on the machine"),
    honoured("readinessProbe", "sets the condition Ready"),
    honoured("resizePolicy", "when a cluster resizes the pod"),
    honoured("resources", "see ResourceRequirements"),
    honoured(
        "restartPolicy",
        "overrides the pod's; Always in an init container makes a sidecar",
    ),
    honoured("restartPolicyRules", "by exit code"),
    honoured("securityContext", "see SecurityContext"),
    honoured("startupProbe", "holds back the other two"),
    honoured("stdin", "stays open"),
    honoured("stdinOnce", "closes after the first attach"),
    honoured(
        "terminationMessagePath",
        "a file whose text becomes the status' message",
    ),
    honoured(
        "terminationMessagePolicy",
        "FallbackToLogsOnError reads the log's end",
    ),
    honoured("tty", "a terminal"),
    refused(
        "volumeDevices",
        "block volumes need a PersistentVolumeClaim",
    ),
    honoured("volumeMounts", "see VolumeMount"),
    honoured("workingDir", "else the image's"),
];

const POD_SECURITY: &[Field] = &[
    honoured("appArmorProfile", "handed to the runtime"),
    honoured("fsGroup", "owns volumes that the pod alone uses"),
    honoured("fsGroupChangePolicy", "Always or OnRootMismatch"),
    honoured("runAsGroup", "unless the container says otherwise"),
    honoured(
        "runAsNonRoot",
        "checked against the image's user before the start",
    ),
    honoured("runAsUser", "unless the container says otherwise"),
    warned("seLinuxChangePolicy", "volumes are not relabelled"),
    honoured("seLinuxOptions", "handed to the runtime"),
    honoured("seccompProfile", "RuntimeDefault, Unconfined, Localhost"),
    honoured("supplementalGroups", "for every container"),
    honoured("supplementalGroupsPolicy", "Merge or Strict"),
    honoured("sysctls", "those that belong to a namespace of the pod"),
    refused("windowsOptions", NO_WINDOWS),
];

const SECURITY: &[Field] = &[
    honoured("allowPrivilegeEscalation", "false sets no_new_privs"),
    honoured("appArmorProfile", "handed to the runtime"),
    honoured("capabilities", "added and dropped"),
    honoured("privileged", "all devices and capabilities"),
    honoured(
        "procMount",
        "Default masks paths of /proc; Unmasked does not",
    ),
    honoured("readOnlyRootFilesystem", "mounts the root read-only"),
    honoured("runAsGroup", "wins over the pod's"),
    honoured(
        "runAsNonRoot",
        "checked against the image's user before the start",
    ),
    honoured("runAsUser", "wins over the pod's"),
    honoured("seLinuxOptions", "handed to the runtime"),
    honoured("seccompProfile", "wins over the pod's"),
    refused("windowsOptions", NO_WINDOWS),
];

const VOLUME: &[Field] = &[
    refused("awsElasticBlockStore", NO_SUCH_VOLUME),
    refused("azureDisk", NO_SUCH_VOLUME),
    refused("azureFile", NO_SUCH_VOLUME),
    refused("cephfs", NO_SUCH_VOLUME),
    refused("cinder", NO_SUCH_VOLUME),
    honoured("configMap", "of the same source; items, modes, optional"),
    refused("csi", NO_SUCH_VOLUME),
    honoured("downwardAPI", "fields and resources"),
    honoured("emptyDir", "on disk or in memory, with a limit"),
    refused("ephemeral", NO_SUCH_VOLUME),
    refused("fc", NO_SUCH_VOLUME),
    refused("flexVolume", NO_SUCH_VOLUME),
    refused("flocker", NO_SUCH_VOLUME),
    refused("gcePersistentDisk", NO_SUCH_VOLUME),
    refused("gitRepo", NO_SUCH_VOLUME),
    refused("glusterfs", NO_SUCH_VOLUME),
    honoured("hostPath", "all types"),
    refused("image", "image volumes are not built yet"),
    refused("iscsi", NO_SUCH_VOLUME),
    honoured("name", "unique in the pod"),
    refused("nfs", NO_SUCH_VOLUME),
    refused("persistentVolumeClaim", NO_SUCH_VOLUME),
    refused("photonPersistentDisk", NO_SUCH_VOLUME),
    refused("portworxVolume", NO_SUCH_VOLUME),
    honoured(
        "projected",
        "configMap, secret and downwardAPI in one directory",
    ),
    refused("quobyte", NO_SUCH_VOLUME),
    refused("rbd", NO_SUCH_VOLUME),
    refused("scaleIO", NO_SUCH_VOLUME),
    honoured(
        "secret",
        "of the same source; kept in memory, never on disk",
    ),
    refused("storageos", NO_SUCH_VOLUME),
    refused("vsphereVolume", NO_SUCH_VOLUME),
];

const PROJECTION: &[Field] = &[
    refused("clusterTrustBundle", "there is no API server to ask"),
    honoured("configMap", "of the same source"),
    honoured("downwardAPI", "fields and resources"),
    refused("podCertificate", "there is no API server to ask"),
    honoured("secret", "of the same source"),
    refused("serviceAccountToken", "there is no API server to ask"),
];

const VOLUME_MOUNT: &[Field] = &[
    honoured("bindMountOptions", "handed to the runtime"),
    honoured("mountPath", "absolute, unique in the container"),
    honoured(
        "mountPropagation",
        "Bidirectional needs a privileged container",
    ),
    honoured("name", "a volume of the pod"),
    honoured("readOnly", "a read-only mount"),
    honoured("recursiveReadOnly", "Disabled, IfPossible, Enabled"),
    honoured(
        "subPath",
        "resolved inside the volume, links cannot leave it",
    ),
    honoured("subPathExpr", "with $(VAR) replaced"),
];

const EMPTY_DIR: &[Field] = &[
    honoured("medium", "Memory is a tmpfs"),
    honoured("mode", "0777 if left out"),
    honoured(
        "sizeLimit",
        "a tmpfs' size; on disk it is watched and the pod fails",
    ),
];

const PROJECTED: &[Field] = &[
    honoured("defaultMode", "0644 if left out"),
    honoured("defaultUser", "owner of the files"),
    honoured("sources", "later sources win"),
];

const ENV_SOURCE: &[Field] = &[
    honoured("configMapKeyRef", "a ConfigMap of the same source"),
    honoured("fieldRef", "a field of the pod"),
    refused(
        "fileKeyRef",
        "environment from a volume's file is not built yet",
    ),
    honoured("resourceFieldRef", "a limit or request of a container"),
    honoured("secretKeyRef", "a Secret of the same source"),
];

const RESOURCES: &[Field] = &[
    refused("claims", "there is no device driver to ask"),
    honoured("limits", "cpu, memory, hugepages"),
    honoured("requests", "cpu becomes a weight"),
];

const HTTP_GET: &[Field] = &[
    honoured("host", "else the pod's address"),
    honoured("httpHeaders", "sent as they are"),
    honoured("path", "else /"),
    honoured("port", "a number, or a port's name"),
    unless(
        refused("protocol", "requests go over HTTP/1.1"),
        &["HTTP1", "HTTP/1.1"],
    ),
    honoured("scheme", "HTTP; for HTTPS certificates are not checked"),
];

const GRPC: &[Field] = &[
    unless(
        refused("mode", "the health service is asked in plain text"),
        &["Plaintext", "Insecure"],
    ),
    honoured("port", "a number"),
    honoured("service", "the name that the health service is asked for"),
];

const LIFECYCLE: &[Field] = &[
    honoured(
        "postStart",
        "exec, httpGet, sleep; its failure kills the container",
    ),
    honoured("preStop", "exec, httpGet, sleep; inside the grace"),
    honoured("stopSignal", "instead of the image's"),
];

const DEPLOYMENT: &[Field] = &[
    warned("minReadySeconds", "there is no rollout to pace"),
    unless(warned("paused", "there is no rollout to pause"), &["false"]),
    warned("progressDeadlineSeconds", "there is no rollout to watch"),
    honoured("replicas", "that many pods"),
    warned("revisionHistoryLimit", "no history is kept"),
    honoured("selector", "must match the template's labels"),
    warned("strategy", "a new run replaces the old one"),
    honoured("template", "see PodSpec"),
];

const JOB: &[Field] = &[
    honoured(
        "activeDeadlineSeconds",
        "the job fails with reason DeadlineExceeded",
    ),
    honoured("backoffLimit", "6 if left out"),
    refused(
        "backoffLimitPerIndex",
        "failures are counted for the whole job",
    ),
    honoured("completionMode", "Indexed sets JOB_COMPLETION_INDEX"),
    honoured("completions", "1 if left out"),
    unless(
        refused("managedBy", "no other controller is there"),
        &["kubernetes.io/job-controller"],
    ),
    unless(
        warned("manualSelector", "pods are found by the job's name"),
        &["false"],
    ),
    refused("maxFailedIndexes", "failures are counted for the whole job"),
    honoured("parallelism", "that many pods at a time"),
    refused("podFailurePolicy", "every failed pod counts"),
    unless(
        warned("podReplacementPolicy", "a pod is replaced once it ended"),
        &["Failed"],
    ),
    warned("scheduling", NO_CLUSTER),
    warned("selector", "pods are found by the job's name"),
    refused("successPolicy", "the job succeeds when all completions did"),
    unless(
        refused("suspend", "a job that does not run would wait for nobody"),
        &["false"],
    ),
    honoured("template", "see PodSpec"),
    honoured(
        "ttlSecondsAfterFinished",
        "0 removes the pods as the job ends; else they are kept",
    ),
];

/// What becomes of a field; none for types that the tables do not judge.
pub fn find(definition: &str, name: &str) -> Option<&'static Field> {
    let table = TABLES.iter().find(|table| table.definition == definition)?;
    table.fields.iter().find(|field| field.name == name)
}

/// The tables as a page for people, `docs/pod-fields.md`.
pub fn render() -> String {
    let mut page = String::from(
        "# What berth does with each field of a pod\n\n\
         Printed from `scheduler/src/manifest/fields.rs`; a test compares both, and the\n\
         tables with the Kubernetes types. A field that is not *honoured* is named when a\n\
         manifest uses it: in a warning, or in an error.\n",
    );
    for table in TABLES {
        let name = table
            .definition
            .rsplit('.')
            .next()
            .unwrap_or(table.definition);
        // Writing to a string cannot fail.
        let _ = write!(page, "\n## {name}\n\n| field | | |\n|---|---|---|\n");
        for field in table.fields {
            let judgement = match field.judgement {
                Judgement::Honoured => "honoured",
                Judgement::Warned => "warned",
                Judgement::Refused => "refused",
            };
            let harmless = match field.harmless {
                [] => String::new(),
                values => format!(" (fine: {})", values.join(", ")),
            };
            let _ = writeln!(
                page,
                "| {} | {judgement} | {}{harmless} |",
                field.name, field.note
            );
        }
    }
    page
}
