#!/usr/bin/env bash
# Runs segd's image as docs/containers.md says, with crun alone, and looks at the video that comes out: `make test-image`.
# No root inside, no capabilities, nothing to write to but /tmp and /var/lib/segd. Needs root, buildah, crun, ffmpeg.
# Usage: deploy/container/test.sh [IMAGE]    [localhost/segd:ARCHITECTURE]
set -euo pipefail
cd "$(dirname "$0")/../.."
image=${1:-localhost/segd:$(dpkg --print-architecture)}
rtsp=18554 http=18555
say() { echo "test-image: $* (after $SECONDS s)"; }
die() { echo "test-image: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "needs root: sudo make test-image"
for tool in buildah crun ffprobe ffmpeg curl; do command -v "$tool" >/dev/null || die "$tool is missing"; done
scripts/fetch.sh clip

work=$(mktemp -d)
name=segd-test-$$
container=$(buildah from --pull-never "$image")
cleanup() {
  # crun hands the signal on to segd.
  if [ -n "${running:-}" ]; then kill -TERM "$running" 2>/dev/null || true; wait "$running" 2>/dev/null || true; fi
  buildah umount "$container" >/dev/null 2>&1 || true
  buildah rm "$container" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT
root=$(buildah mount "$container")
mkdir -m 777 "$work/data"
cp .cache/bikes.mp4 "$work/data/"
chmod 644 "$work/data/bikes.mp4"

# bundle FOLDER ARGUMENT...: a container of the image with these arguments, in the host's network.
bundle() {
  local folder=$work/$1
  shift
  mkdir "$folder"
  (cd "$folder" && crun spec)
  buildah inspect --type container "$container" | python3 -c '
import json, sys
folder, root, data, *arguments = sys.argv[1:]
image = json.load(sys.stdin)["OCIv1"]["config"]
with open(folder + "/config.json") as file:
    spec = json.load(file)
uid, gid = image["User"].split(":")
process = spec["process"]
process.update(terminal=False, noNewPrivileges=True, cwd=image["WorkingDir"], env=image["Env"], args=image["Entrypoint"] + arguments,
               user={"uid": int(uid), "gid": int(gid)}, capabilities={kind: [] for kind in process["capabilities"]})
process.pop("rlimits", None)
spec["root"] = {"path": root, "readonly": True}
spec["mounts"] = [one for one in spec["mounts"] if one["type"] not in ("cgroup", "mqueue", "sysfs")] + [
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=16m"]},
    {"destination": "/var/lib/segd", "type": "bind", "source": data, "options": ["bind", "nosuid", "nodev"]}]
linux = spec["linux"]
linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in ("network", "cgroup")]
linux.pop("resources", None)
with open(folder + "/config.json", "w") as file:
    json.dump(spec, file)
' "$folder" "$root" "$work/data" "$@"
}

# Starts a bundle; its process is this shell's job. crun refuses a machine with both versions of cgroups: it sees one.
start() {
  unshare --mount bash -c 'umount -l /sys/fs/cgroup/unified /sys/fs/cgroup/systemd 2>/dev/null
    exec crun --cgroup-manager=disabled run --bundle "$1" "$2"' start "$work/$1" "$name-$1" >"$work/$1.log" 2>&1 &
  running=$!
}

say "a recording is read and written (H.264, as cameras send it)"
bundle convert --http "" --input /var/lib/segd/bikes.mp4 --no-pace --every 8 --frames 60 --output /var/lib/segd/out.mkv
start convert
wait "$running" || { cat "$work/convert.log" >&2; die "segd ended with an error"; }
running=""
found=$(ffprobe -v error -count_frames -show_entries stream=codec_name,width,height,nb_read_frames -of csv=p=0 "$work/data/out.mkv")
[ "$found" = h264,640,272,60 ] || die "the recording is \"$found\", not h264,640,272,60"
say "ffprobe sees $found"

say "a made picture is served"
bundle serve --input test:// --width 320 --height 240 --fps 10 --insecure --http "127.0.0.1:$http" --output "rtsp://127.0.0.1:$rtsp/segd"
start serve
for _ in $(seq 60); do
  if curl -sf "http://127.0.0.1:$http/readyz" >/dev/null; then break; fi
  kill -0 "$running" 2>/dev/null || { cat "$work/serve.log" >&2; die "segd has ended"; }
  sleep 0.5
done
found=$(ffprobe -v error -rtsp_transport tcp -show_entries stream=codec_name,width,height -of csv=p=0 "rtsp://127.0.0.1:$rtsp/segd")
[ "$found" = h264,320,240 ] || { cat "$work/serve.log" >&2; die "the stream is \"$found\", not h264,320,240"; }
ffmpeg -v error -y -rtsp_transport tcp -i "rtsp://127.0.0.1:$rtsp/segd" -frames:v 20 -f framemd5 "$work/frames.md5"
pictures=$(grep -v '^#' "$work/frames.md5" | awk '{print $NF}' | sort -u | wc -l)
[ "$pictures" -ge 10 ] || die "only $pictures different pictures of 20"
say "ffprobe sees $found; 20 pictures, $pictures of them different"

# The process as the host sees it.
pid=$(crun --cgroup-manager=disabled state "$name-serve" 2>/dev/null | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
[ -n "$pid" ] && [ "$pid" -gt 0 ] || die "crun does not know the container"
status=$(cat "/proc/$pid/status")
grep -q '^Uid:.10001.10001' <<<"$status" || die "segd does not run as 10001"
grep -q '^CapEff:.0000000000000000$' <<<"$status" || die "segd has capabilities"
grep -q '^NoNewPrivs:.1$' <<<"$status" || die "segd may get privileges"
awk '$5 == "/" { exit $6 !~ /^ro/ }' "/proc/$pid/mountinfo" || die "the root file system can be written"
# What HEALTHCHECK does, inside.
chroot "$root" /usr/bin/segd health --http "127.0.0.1:$http" || die "segd is unwell"
say "user 10001, no capabilities, read-only root, and well"

kill -TERM "$running"
wait "$running" || { cat "$work/serve.log" >&2; die "segd did not end well"; }
running=""
say "done"
