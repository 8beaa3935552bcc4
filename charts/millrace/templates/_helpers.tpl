{{- define "millrace.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "millrace.selector" -}}
app.kubernetes.io/name: millrace-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "millrace.labels" -}}
{{ include "millrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "millrace.account" -}}
{{- default (include "millrace.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Of the namespace, not of the release: it outlives both. */}}
{{- define "millrace.key" -}}
{{- default "millrace-master-key" .Values.masterKey.existingSecret -}}
{{- end -}}

{{- define "millrace.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* What a controller does in each namespace that it watches. */}}
{{- define "millrace.rules" -}}
- apiGroups: [millrace.dev]
  resources: [streamjobs, savepoints]
  verbs: [get, list, watch, patch]
- apiGroups: [millrace.dev]
  resources: [savepoints]
  verbs: [create, delete]
- apiGroups: [millrace.dev]
  resources: [streamjobs/status, savepoints/status]
  verbs: [update]
- apiGroups: [millrace.dev]
  resources: [streamjobs/status]
  verbs: [patch]
- apiGroups: [millrace.dev]
  resources: [streamjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "millrace.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
serviceAccountName: {{ include "millrace.account" . }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "millrace.container" -}}
image: {{ include "millrace.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - {name: RUST_LOG, value: {{ .Values.log.level | quote }}}
  - {name: MILLRACE_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
  - {name: MILLRACE_OWN_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: MILLRACE_IDENTITY, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: MILLRACE_NAME, value: {{ include "millrace.name" . | quote }}}
  {{- with .Values.watchNamespaces }}
  - {name: MILLRACE_NAMESPACES, value: {{ join "," . | quote }}}
  {{- end }}
  {{- with .Values.traces }}
  - {name: MILLRACE_TRACES, value: {{ . | quote }}}
  {{- end }}
  {{- if not .Values.refreshStatus }}
  - {name: MILLRACE_REFRESH_STATUS, value: "false"}
  {{- end }}
  {{- if .Values.watchNodes }}
  - {name: MILLRACE_WATCH_NODES, value: "true"}
  {{- end }}
{{- end -}}
