{{- define "segd.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "segd.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "segd.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/*
The groups, as YAML of a map with the key `groups`: name, class, cameras. Cameras with an input are cut into groups of their class's
size in the order of the list, those with a device are alone.
*/}}
{{- define "segd.groups" -}}
{{- $classes := .Values.classes -}}
{{- $default := keys $classes | sortAlpha | first -}}
{{- $groups := list -}}
{{- $seen := dict -}}
{{- range .Values.cameras -}}
  {{- if not (regexMatch "^[A-Za-z0-9_-]+$" (.name | default "")) -}}{{ fail (printf "cameras: name %q, expected letters, digits, - and _" (.name | default "")) }}{{- end -}}
  {{- if hasKey $seen .name -}}{{ fail (printf "cameras: two are called %q" .name) }}{{- end -}}
  {{- $_ := set $seen .name true -}}
  {{- if not (hasKey $classes (.class | default $default)) -}}{{ fail (printf "camera %s: there is no class %q; classes are %s" .name .class (keys $classes | sortAlpha | join ", ")) }}{{- end -}}
  {{- if eq (empty .input) (empty .device) -}}{{ fail (printf "camera %s: one of input and device is needed" .name) }}{{- end -}}
  {{- if and .device (not .node) -}}{{ fail (printf "camera %s: a device needs the node that it is plugged into" .name) }}{{- end -}}
{{- end -}}
{{- range $class := keys $classes | sortAlpha -}}
  {{- $mine := list -}}
  {{- range $.Values.cameras -}}
    {{- if and .input (eq (.class | default $default) $class) -}}{{- $mine = append $mine . -}}{{- end -}}
  {{- end -}}
  {{- $size := int (get $classes $class).camerasPerPod -}}
  {{- if lt $size 1 -}}{{ fail (printf "classes.%s.camerasPerPod: expected 1 or more" $class) }}{{- end -}}
  {{- range $index, $part := chunk $size $mine -}}
    {{- $groups = append $groups (dict "name" (printf "%s-%d" $class $index) "class" $class "cameras" $part) -}}
  {{- end -}}
{{- end -}}
{{- range .Values.cameras -}}
  {{- if .device -}}
    {{- $groups = append $groups (dict "name" (printf "local-%s" (.name | lower | replace "_" "-")) "class" (.class | default $default) "cameras" (list .) "local" true) -}}
  {{- end -}}
{{- end -}}
{{- dict "groups" $groups | toYaml -}}
{{- end }}

{{/*
Configuration of a group. What needs a restart comes first, and its checksum is the pods'.
Arguments: a dict of root and group.
*/}}
{{- define "segd.fixed" -}}
# Made by the chart. Where segd listens stands in its variables.
{{- with (get .root.Values.classes .group.class).settings }}
{{ . | trim }}
{{- end }}
{{- with .root.Values.settings }}
{{ . | trim }}
{{- end }}
{{- range .group.cameras }}
[[camera]]
name = {{ .name | toJson }}
{{- if .input }}
capture.input = {{ .input | toJson }}
{{- else }}
capture.camera = {{ .device | toJson }}
{{- end }}
{{- with .settings }}
{{ . | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- define "segd.config" -}}
{{ include "segd.fixed" . }}
{{- with .root.Values.live }}
{{ . | trim }}
{{- end }}
{{- end }}
