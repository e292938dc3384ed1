#!/bin/bash
# Runs inside the VM as root: the camera tests on vivid, then the package under a real systemd. Each step prints its
# time; the first that fails ends the run with its log.
set -uo pipefail
cd /payload || exit 1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
began=$(date +%s)
say() { echo "[$(($(date +%s) - began)) s] $*"; }
fail() {
  say "FAILED: $*"
  journalctl -u segd --no-pager -n 60 2>/dev/null
  tail -5 /tmp/client.log 2>/dev/null
  exit 1
}
# until_true SECONDS WHAT COMMAND...: waits until the command succeeds.
until_true() {
  local limit=$1 what=$2 end
  shift 2
  end=$(($(date +%s) + limit))
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt $end ] || fail "not within $limit s: $what"
    sleep 0.1
  done
}
metric() { curl -s http://127.0.0.1:8555/metrics | sed -n "s/^$1 //p"; }
source_is() { [ "$(metric 'segd_source_up{camera="segd"}')" = "$1" ]; }
property() { systemctl show -p "$1" --value segd; }
log_has() { journalctl -u segd --no-pager -o cat | grep -q "$1"; }

ip link set lo up
modprobe vivid n_devs=1 node_types=0x1 || fail "vivid"
until_true 20 "/dev/video0" test -c /dev/video0

if [ -x camera_vm ]; then
  say "camera: formats, adjusted modes, fractional rates, unplugging"
  SEGD_VIVID=1 ./camera_vm --test-threads=1 --nocapture 2>&1 | grep -E '^(test |camera)' || true
  [ "${PIPESTATUS[0]}" -eq 0 ] || fail "camera tests"
fi

say "install"
dpkg -i segd.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -i"; }
id -nG segd | grep -qw video || fail "the user segd is not in group video"
[ "$(stat -c %a,%G /etc/segd/segd.toml)" = "640,segd" ] || fail "permissions of /etc/segd/segd.toml"
segd --version
cat >>/etc/segd/segd.toml <<'CONFIG'
[capture]
camera = "/dev/video0"
width = 320
height = 180
fps = 15
[model]
backend = "tract"
name = "/payload/model"
CONFIG
# The tables above stand commented in the file; TOML takes each once.
sed -i -e '0,/^\[capture\]$/{/^\[capture\]$/d}' -e '0,/^\[model\]$/{/^\[model\]$/d}' /etc/segd/segd.toml
segd check-config /etc/segd/segd.toml || fail "check-config"

say "exposure: $(systemd-analyze security segd.service --no-pager 2>/dev/null | tail -1)"
score=$(systemd-analyze security segd.service --no-pager 2>/dev/null | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
awk "BEGIN { exit !($score <= 1.5) }" || fail "exposure $score is above 1.5"

say "start: systemctl returns when READY=1 has come"
mkdir -p /etc/systemd/system/segd.service.d
printf '[Service]\nWatchdogSec=8\nTimeoutStartSec=600\n' >/etc/systemd/system/segd.service.d/test.conf
systemctl daemon-reload
systemctl enable --now segd 2>/dev/null || fail "systemctl enable --now"
[ "$(property ActiveState)" = active ] || fail "not active"
[ "$(ps -o user= -p "$(property MainPID)")" = segd ] || fail "not run by the user segd"
say "ready; $(property StatusText)"
until_true 60 "healthy" curl -sf http://127.0.0.1:8555/healthz
until_true 20 "a status" sh -c 'systemctl show -p StatusText --value segd | grep -q " fps, mask age "'
say "status: $(property StatusText)"

unplugs=$(cat unplugs 2>/dev/null || echo 100)
say "$unplugs unplugs under one client that never reconnects"
ffmpeg -nostdin -hide_banner -loglevel error -rtsp_transport tcp -i rtsp://127.0.0.1:8554/segd \
  -f framemd5 -flush_packets 1 /tmp/client.md5 2>/tmp/client.log &
client=$!
frames() { grep -vc '^#' /tmp/client.md5; }
until_true 60 "the client's first frames" sh -c 'test "$(grep -vc "^#" /tmp/client.md5)" -gt 5'
for n in $(seq "$unplugs"); do
  echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind || fail "unbind $n"
  until_true 20 "loss $n is seen" source_is 0
  echo vivid.0 >/sys/bus/platform/drivers/vivid/bind || fail "bind $n"
  until_true 40 "the camera is back, $n" source_is 1
  kill -0 $client 2>/dev/null || fail "the client was disconnected at unplug $n"
  # It has recovered when it gave frames for a while.
  sleep 1.1
  [ $((n % 20)) -ne 0 ] || say "$n unplugs, $(frames) frames at the client, $(metric process_open_fds) files, $(($(metric process_resident_memory_bytes | sed 's/e.*//') / 1048576)) MiB"
done
before=$(frames)
until_true 30 "video after the last unplug" sh -c "test \$(grep -vc '^#' /tmp/client.md5) -gt $((before + 10))"
[ "$(metric 'segd_source_reconnects_total{camera="segd"}')" = "$unplugs" ] || fail "reconnects: $(metric 'segd_source_reconnects_total{camera="segd"}')"
[ "$(property NRestarts)" = 0 ] || fail "segd was restarted"

say "reload"
sed -i 's/^#visualize = .*/visualize = "mask"/' /etc/segd/segd.toml
systemctl reload segd || fail "systemctl reload"
until_true 20 "the new configuration" log_has "was read again and is in force"
kill -0 $client 2>/dev/null || fail "the client was disconnected by the reload"
sed -i 's/^visualize = .*/visualize = "glow"/' /etc/segd/segd.toml
systemctl reload segd
until_true 20 "the refusal" log_has "nothing was changed"
sed -i 's/^visualize = .*/visualize = "overlay"/' /etc/segd/segd.toml

say "stop with a client watching"
start=$(date +%s%N)
systemctl stop segd || fail "systemctl stop"
took=$((($(date +%s%N) - start) / 1000000))
[ "$(property Result)" = success ] || fail "it did not end well: $(property Result)"
[ $took -lt 2000 ] || fail "stopping took $took ms"
say "stopped in $took ms"
wait $client 2>/dev/null

say "a hang is ended by the watchdog"
systemctl start segd || fail "systemctl start"
pid=$(property MainPID)
kill -STOP "$pid"
until_true 40 "the watchdog's restart" sh -c 'test "$(systemctl show -p NRestarts --value segd)" -ge 1'
log_has "Watchdog timeout" || journalctl -u segd --no-pager | grep -qi watchdog || fail "not by the watchdog"
until_true 90 "ready again" curl -sf http://127.0.0.1:8555/readyz
say "restarted: was $pid, is $(property MainPID)"

say "purge"
rm -r /etc/systemd/system/segd.service.d
dpkg -P segd >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -P"; }
left=$(find / -xdev \( -path /proc -o -path /sys -o -path /payload -o -path /tmp -o -path '/var/log/*' -o -path '/var/lib/dpkg/*' \) -prune -o -name '*segd*' -print 2>/dev/null)
[ -z "$left" ] || fail "left behind: $left"
getent passwd segd && fail "the user is left"
say "all passed"
exit 0
