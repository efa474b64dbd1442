{{- define "composer.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "composer.selector" -}}
app.kubernetes.io/name: composer
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "composer.labels" -}}
{{ include "composer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "composer.storeClaim" -}}
{{- .Values.store.existingClaim | default (printf "%s-store" (include "composer.name" .)) -}}
{{- end -}}

{{/* What no template can render sensibly. */}}
{{- define "composer.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.store.existingClaim) (ne .Values.store.accessMode "ReadWriteMany") -}}
{{- fail (printf "replicas: %d servers share one store, which store.accessMode: %s does not allow; set ReadWriteMany, store.existingClaim, or replicas: 1" (int .Values.replicas) .Values.store.accessMode) -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor (eq .Values.metrics.access "off") -}}
{{- fail "metrics.podMonitor: there is nothing to read with metrics.access: off; set open or key" -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor .Values.keys.secret (eq .Values.metrics.access "key") (not .Values.metrics.keySecret) -}}
{{- fail "metrics.podMonitor: with metrics.access: key Prometheus needs a key; set metrics.keySecret, or metrics.access: open" -}}
{{- end -}}
{{- if and .Values.inferencePool.enabled (or (eq .Values.metrics.access "off") (and .Values.keys.secret (ne .Values.metrics.access "open"))) -}}
{{- fail (printf "inferencePool: the endpoint picker reads /metrics without a key, which metrics.access: %s does not allow; set open" .Values.metrics.access) -}}
{{- end -}}
{{- end -}}
