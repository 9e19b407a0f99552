{{/* What the pods of the workers and of the ledger have in common. */}}

{{- define "tokentrace.pod" -}}
serviceAccountName: {{ include "tokentrace.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
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
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  {{- if include "tokentrace.secretFiles" . | fromYamlArray }}
  fsGroup: 10001 # reads the files
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "tokentrace.environment" -}}
- name: KAFKA_BOOTSTRAP_SERVERS
  value: {{ .Values.kafka.bootstrapServers | quote }}
{{- if .Values.http.token }}
- name: TOKENTRACE_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .Values.secret }}, key: auth-token}
{{- end }}
{{- if eq .Values.kafka.authentication "password" }}
- name: KAFKA_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ .Values.secret }}, key: kafka-username}
- name: KAFKA_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.secret }}, key: kafka-password}
{{- end }}
# NumPy's threads do not help here, and would count the node's cores rather than the pod's.
- name: OMP_NUM_THREADS
  value: "1"
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tokentrace.mounts" -}}
- {name: config, mountPath: /etc/tokentrace, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- range include "tokentrace.secretFiles" . | fromYamlArray }}
- {name: {{ .name }}, mountPath: /etc/tokentrace-{{ .name }}, readOnly: true}
{{- end }}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tokentrace.volumes" -}}
- name: config
  configMap:
    name: {{ include "tokentrace.name" . }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- range include "tokentrace.secretFiles" . | fromYamlArray }}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
{{- end }}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
