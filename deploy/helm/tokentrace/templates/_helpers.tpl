{{- define "tokentrace.name" -}}
{{- if contains "tokentrace" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-tokentrace{{ end -}}
{{- end }}

{{- define "tokentrace.selector" -}}
app.kubernetes.io/name: tokentrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tokentrace.ledgerSelector" -}}
app.kubernetes.io/name: tokentrace-ledger
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tokentrace.ledgerLabels" -}}
{{- mergeOverwrite (include "tokentrace.labels" . | fromYaml) (include "tokentrace.ledgerSelector" . | fromYaml) | toYaml }}
{{- end }}

{{/* The pods, or their Services, that a monitor finds: the workers, and a ledger in a pod of its own. */}}
{{- define "tokentrace.monitored" -}}
matchLabels:
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - {key: app.kubernetes.io/name, operator: In, values: [tokentrace, tokentrace-ledger]}
{{- end }}

{{- define "tokentrace.labels" -}}
{{ include "tokentrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tokentrace.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "tokentrace.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "tokentrace.name" .) }}
{{- end }}

{{/* The librdkafka properties by which Kafka is reached. */}}
{{- define "tokentrace.properties" -}}
{{- with .Values.kafka }}
{{- if eq .authentication "password" }}
security.protocol: {{ ternary "sasl_ssl" "sasl_plaintext" .tls }}
sasl.mechanism: {{ .mechanism }}
sasl.username: ${KAFKA_USERNAME}
sasl.password: ${KAFKA_PASSWORD}
{{- else if eq .authentication "certificate" }}
security.protocol: ssl
ssl.certificate.location: /etc/tokentrace-kafka-certificate/tls.crt
ssl.key.location: /etc/tokentrace-kafka-certificate/tls.key
{{- else }}
security.protocol: {{ ternary "ssl" "plaintext" .tls }}
{{- end }}
{{- if .caSecret }}
ssl.ca.location: /etc/tokentrace-kafka-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* tokentrace.yml: what the other values say, and `config` over it. */}}
{{- define "tokentrace.config" -}}
{{- $worker := dict "replica_id" "${POD_NAME}" "drain_timeout" .Values.drainTimeout "log_format" .Values.logFormat }}
{{- if ne .Values.autoscaling.type "none" }}
{{- $_ := set $worker "min_replicas" (int .Values.autoscaling.minReplicas) }}
{{- end }}
{{- $http := dict "addr" ":9090" }}
{{- if .Values.http.token }}
{{- $_ := set $http "auth_token" "${TOKENTRACE_AUTH_TOKEN}" }}
{{- end }}
{{- if .Values.http.adminTokenSecret }}
{{- $_ := set $http "admin_token_file" "/etc/tokentrace-admin/admin-token" }}
{{- end }}
{{- if .Values.http.tlsSecret }}
{{- $_ := set $http "tls" (dict "certificate" "/etc/tokentrace-tls/tls.crt" "key" "/etc/tokentrace-tls/tls.key") }}
{{- end }}
{{- $ledger := dict "url" "${LEDGER_URL:-}" "addr" ":9091" }}
{{- $kafka := dict "bootstrap_servers" "${KAFKA_BOOTSTRAP_SERVERS}" "topic" .Values.kafka.topic "group_id" .Values.kafka.groupId }}
{{- $_ := set $kafka "properties" (include "tokentrace.properties" . | fromYaml) }}
{{- toYaml (mergeOverwrite (dict "kafka" $kafka "worker" $worker "http_server" $http "ledger" $ledger) .Values.config) }}
{{- end }}

{{/* How a scrape authenticates, in a monitor's endpoint. */}}
{{- define "tokentrace.endpoint" -}}
port: metrics
path: /metrics/prometheus
{{- if .Values.http.token }}
authorization:
  type: Bearer
  credentials: {name: {{ .Values.secret }}, key: auth-token}
{{- end }}
{{- if .Values.http.tlsSecret }}
scheme: https
tlsConfig:
  serverName: {{ .Values.http.tlsServerName | default (printf "%s.%s.svc" (include "tokentrace.name" .) .Release.Namespace) }}
  ca:
    secret: {name: {{ .Values.http.tlsSecret }}, key: ca.crt}
{{- end }}
relabelings:
  # The address of a pod changes with every restart, its name does not.
  - action: replace
    sourceLabels: [__meta_kubernetes_pod_name]
    targetLabel: instance
{{- end }}

{{/* Certificates and tokens as files: a list of name, Secret, folder. */}}
{{- define "tokentrace.secretFiles" -}}
{{- $files := list }}
{{- with .Values.kafka.caSecret }}{{ $files = append $files (dict "name" "kafka-ca" "secret" .) }}{{ end }}
{{- if eq .Values.kafka.authentication "certificate" }}
{{- $secret := required "kafka.authentication is certificate, so kafka.certificateSecret has to be set" .Values.kafka.certificateSecret }}
{{- $files = append $files (dict "name" "kafka-certificate" "secret" $secret) }}
{{- end }}
{{- with .Values.http.tlsSecret }}{{ $files = append $files (dict "name" "tls" "secret" .) }}{{ end }}
{{- with .Values.http.adminTokenSecret }}{{ $files = append $files (dict "name" "admin" "secret" .) }}{{ end }}
{{- toYaml $files }}
{{- end }}
