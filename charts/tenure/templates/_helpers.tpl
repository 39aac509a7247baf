{{/* The one namespace: the policies, and the NetworkPolicies that the operator writes, name it (docs/adr/0031). */}}
{{- define "tenure.namespace" -}}tenure-system{{- end }}

{{- define "tenure.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Call with (list $ "operator"). */}}
{{- define "tenure.selectorLabels" -}}
app.kubernetes.io/name: tenure
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "tenure.labels" -}}
{{- $root := index . 0 -}}
{{ include "tenure.selectorLabels" . }}
app.kubernetes.io/part-of: tenure
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tenure.metadata" -}}
name: tenure-{{ index . 1 }}
namespace: {{ include "tenure.namespace" . }}
labels: {{- include "tenure.labels" . | nindent 2 }}
{{- end }}

{{/* An object that `helm uninstall` leaves: the text with Helm's annotation. The objects have no annotations of their own. */}}
{{- define "tenure.kept" -}}
{{- regexReplaceAll "(?m)^metadata:$" . "metadata:\n  annotations: {helm.sh/resource-policy: keep}" -}}
{{- end }}

{{/* What a pod has from its values alone. Call with (list $ "operator" .Values.operator). */}}
{{- define "tenure.placement" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := index . 2 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
{{- $selector := dict "matchLabels" (include "tenure.selectorLabels" (list $root $name) | fromYaml) }}
{{ list (merge (deepCopy .) (dict "labelSelector" $selector)) | toYaml }}
{{- end }}
{{- end }}
dnsPolicy: {{ $values.dnsPolicy }}
{{- with $values.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment of a container, and more of it behind. Call with the process's values. */}}
{{- define "tenure.environment" -}}
{{- with .extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
env:
- {name: RUST_LOG, value: {{ .logLevel | quote }}}
- {name: TENURE_LOG_FORMAT, value: {{ .logFormat }}}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
