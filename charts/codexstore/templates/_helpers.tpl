{{- define "codexstore.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "codexstore.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "codexstore.labels" -}}
{{ include "codexstore.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "codexstore.metadata" -}}
labels:
  {{- include "codexstore.labels" . | nindent 2 }}
{{- with .Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "codexstore.serviceAccountName" -}}
{{- default (include "codexstore.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- /* The full reference of one image: registry/repository:tag@digest. Takes (list $ image). */ -}}
{{- define "codexstore.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $tag := default (default $root.Chart.AppVersion $root.Values.image.tag) $image.tag -}}
{{- with $root.Values.image.registry -}}{{- trimSuffix "/" . }}/{{- end -}}
{{- $image.repository -}}:{{- $tag -}}
{{- with $image.digest -}}@{{- . -}}{{- end -}}
{{- end -}}

{{- define "codexstore.webhookService" -}}{{ include "codexstore.fullname" . }}-webhook{{- end -}}
{{- define "codexstore.lease" -}}{{ include "codexstore.fullname" . }}-operator{{- end -}}

{{- /* The Secret with the webhook's certificate: made by the operator, by cert-manager, or by the user. */ -}}
{{- define "codexstore.webhookSecret" -}}
{{- if eq .Values.webhook.certificate.source "ExistingSecret" -}}
{{- .Values.webhook.certificate.existingSecret -}}
{{- else -}}
{{- include "codexstore.fullname" . }}-webhook-tls
{{- end -}}
{{- end -}}

{{- define "codexstore.webhookAnnotations" -}}
{{- $annotations := dict -}}
{{- if eq .Values.webhook.certificate.source "CertManager" -}}
{{- $_ := set $annotations "cert-manager.io/inject-ca-from" (printf "%s/%s" .Release.Namespace (include "codexstore.webhookService" .)) -}}
{{- end -}}
{{- with mergeOverwrite (deepCopy .Values.commonAnnotations) $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /*
The webhook's clientConfig. No caBundle unless the user gives one: the operator (or cert-manager) puts it there, and a field
that the chart does not name survives `helm upgrade`. Takes (list $ path).
*/ -}}
{{- define "codexstore.clientConfig" -}}
{{- $root := index . 0 -}}
clientConfig:
  service:
    name: {{ include "codexstore.webhookService" $root }}
    namespace: {{ $root.Release.Namespace }}
    path: {{ index . 1 }}
    port: 443
  {{- if and (eq $root.Values.webhook.certificate.source "ExistingSecret") $root.Values.webhook.certificate.caBundle }}
  caBundle: {{ $root.Values.webhook.certificate.caBundle }}
  {{- end }}
{{- end -}}

{{- /* The operator's own namespace is left out: a webhook that gates its own pods could never start again. */ -}}
{{- define "codexstore.namespaceSelector" -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        {{- toYaml (concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq) | nindent 8 }}
    {{- with .Values.operator.namespaces }}
    - key: kubernetes.io/metadata.name
      operator: In
      values:
        {{- toYaml . | nindent 8 }}
    {{- end }}
{{- end -}}

{{- /* What the operator may do where it works: the rules of the ClusterRole, or of a Role in each namespace. */ -}}
{{- define "codexstore.workRules" -}}
- apiGroups: [codexstore.dev]
  resources: [codexstores]
  verbs: [get, list, watch]
- apiGroups: [codexstore.dev]
  resources: [codexstores/status, codexbackups/status, codexrestores/status, codexkeyrotations/status]
  verbs: [patch]
# The patch sets and removes the finalizer, the delete is for what has expired.
- apiGroups: [codexstore.dev]
  resources: [codexbackups]
  verbs: [get, list, watch, patch, delete]
# The restores of members that wait for theirs are made and deleted.
- apiGroups: [codexstore.dev]
  resources: [codexrestores]
  verbs: [get, list, watch, create, delete]
# The rotations that a schedule asks for are made, and deleted when there are many.
- apiGroups: [codexstore.dev]
  resources: [codexkeyrotations]
  verbs: [get, list, watch, create, delete]
# For owner references that block deletion, where the cluster asks for it.
- apiGroups: [codexstore.dev]
  resources: [codexstores/finalizers, codexbackups/finalizers, codexrestores/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, create, patch, delete]
# The archivers of stores.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
# Accounts of Jobs are bound to one ClusterRole, and to a Role that lets them read and write the ConfigMap with the record of their store's
# archive. The API server lets the operator put no more into a Role than it may do itself.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [clusterroles]
  resourceNames: [{{ include "codexstore.fullname" . }}-jobs]
  verbs: [bind]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Keyrings are created and read by name, never listed, never watched. The patch renews certificates in place, since pods mount
# them by name, and rotates keys in keyrings that the operator made. A rule cannot name them, since stores are made later, and a create cannot be limited to names at all.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "codexstore.testNamespace" -}}
{{- if .Values.tests.namespace -}}
{{- .Values.tests.namespace -}}
{{- else if .Values.operator.namespaces -}}
{{- first .Values.operator.namespaces -}}
{{- else -}}
{{- include "codexstore.fullname" . }}-helm-test
{{- end -}}
{{- end -}}

{{- define "codexstore.testContainer" -}}
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 64Mi}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}
