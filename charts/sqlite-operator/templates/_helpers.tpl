{{- define "sqlite-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sqlite-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "sqlite-operator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sqlite-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sqlite-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sqlite-operator.labels" -}}
{{ include "sqlite-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: sqlite
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sqlite-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sqlite-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* What the operator does in a namespace, and nothing else. */ -}}
{{- define "sqlite-operator.rules" -}}
- apiGroups: [sqlite-operator.io]
  resources: [sqliteclusters]
  verbs: [get, list, watch]
- apiGroups: [sqlite-operator.io]
  resources: [sqlitebackups]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [sqlite-operator.io]
  resources: [sqliterestores]
  verbs: [list, watch]
- apiGroups: [sqlite-operator.io]
  resources: [sqliteclusters/status, sqlitebackups/status, sqliterestores/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch]
# By name: users and their passwords, certificates and their keys. Never listed or watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# By name: what cert-manager is asked for, where a cluster wants its certificates.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch]
# By name: what members are told of stores of backups. Never listed or watched.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
# Whether one is on its way out, which is asked only for a deleted backup whose objects are to go with it.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Tests of backups.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create]
- apiGroups: [""]
  resources: [pods, persistentvolumeclaims]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
