#!/bin/bash
# Runs inside the VM as root: the camera tests on vivid, then README's section on the service word for word, then the
# service's life: unplugging, clock, reload, stop, hang, purge. Each step prints its time since the boot; the first
# that fails ends the run with its log. The file `steps` beside it names those to run; each brings about what it needs.
set -uo pipefail
cd /payload || exit 1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
ALL="camera readme access exposure ready unplug clock reload stop hang purge"
# How much longer than on a processor of its own things may take, and how many more frames may come too fast for it. What
# segd promises in seconds (the stop) is not multiplied by it.
SLOWNESS=3

# What is done over and over starts no program: on an emulated processor each costs as much as several frames.
exec {never}<> <(:)
pause() { read -rt "$1" -u "$never"; }
# Not of the wall clock, which is set on purpose below.
now_ms() {
  local up
  read -r up _ </proc/uptime
  now=$((10#${up/./} * 10))
}
say() {
  now_ms
  echo "[$((now / 1000)) s] $*"
}
fail() {
  say "FAILED: $*"
  systemctl status segd --no-pager -n 0 2>/dev/null | head -12
  journalctl -u segd --no-pager -n 60 2>/dev/null
  tail -5 /tmp/client.log 2>/dev/null
  exit 1
}
# until_true SECONDS WHAT COMMAND...: waits until the command succeeds.
until_true() {
  local limit=$(($1 * SLOWNESS)) what=$2 end
  shift 2
  now_ms
  end=$((now + limit * 1000))
  until "$@" >/dev/null 2>&1; do
    now_ms
    [ $now -lt $end ] || fail "not within $limit s: $what"
    pause 0.1
  done
}
# The lines of /metrics.
read_metrics() {
  local http
  lines=()
  { exec {http}<>/dev/tcp/127.0.0.1/8555; } 2>/dev/null || return
  printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n' >&"$http"
  mapfile -t lines <&"$http"
  exec {http}>&-
}
# value NAME: a sample into $value; empty if there is none.
value() {
  local line
  value=""
  read_metrics
  for line in "${lines[@]}"; do
    if [[ $line == "$1 "* ]]; then value=${line##* }; fi
  done
}
metric() {
  value "$1"
  echo "$value"
}
# Sum of a family's samples.
total() {
  local line sum=0
  read_metrics
  for line in "${lines[@]}"; do
    if [[ $line == "$1{"* ]]; then sum=$((sum + ${line##* })); fi
  done
  echo $sum
}
source_is() {
  value 'segd_source_up{camera="segd"}'
  [ "$value" = "$1" ]
}
property() { systemctl show -p "$1" --value segd; }
log_has() { journalctl -u segd --no-pager -o cat | grep -q -e "$1"; }
healthy() { curl -sf http://127.0.0.1:8555/healthz; }
says() { grep -q -e "$2" <<<"$(property "$1")"; }
# watch ADDRESS NAME [OPTION...]: an ffmpeg that watches until it is ended, writing a line for each frame.
watch() {
  ffmpeg -nostdin -hide_banner -loglevel error -rtsp_transport tcp -i "$1" "${@:3}" -f framemd5 -flush_packets 1 "/tmp/$2.md5" -y 2>"/tmp/$2.log" &
  client=$!
}
watched() { [ -n "$client" ] && kill -0 "$client" 2>/dev/null; }
frames() { grep -vc '^#' "/tmp/$1.md5" 2>/dev/null; }
has_frames() { [ "$(frames "$1")" -gt "$2" ]; }
segd_has() { [ "$(metric "$1")" = "$2" ]; }

# What README's section brings about, for steps that are run without it.
need_package() {
  [ ! -f /usr/bin/segd ] || return 0
  dpkg -i segd_*.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -i"; }
  use_camera /etc/segd/segd.toml
}
# An emulated processor can follow this mode, and the network at this size.
use_camera() {
  sed -i -e 's|^#size = .*|size = 64|' \
    -e '0,/^#camera = /s|^#camera = .*|camera = "/dev/video0"|' -e 's|^#width = .*|width = 320|' -e 's|^#height = .*|height = 180|' \
    -e 's|^#fps = .*|fps = 10|' "$1"
}
# The service, with a network of one convolution.
need_service() {
  need_package
  if ! grep -q '^name = "/payload/model"' /etc/segd/segd.toml; then
    sed -i -e 's|^size = |#&|' -e 's|^#name = "voc21".*|name = "/payload/model"|' -e 's|^#backend = .*|backend = "tract"|' /etc/segd/segd.toml
    systemctl stop segd
  fi
  [ "$(property ActiveState)" = active ] || systemctl start segd || fail "systemctl start"
  until_true 20 "healthy" healthy
}
need_client() {
  need_service
  watched && return 0
  watch rtsp://127.0.0.1:8554/segd client -c copy
  until_true 20 "the client's first frames" has_frames client 5
}

step_camera() {
  say "camera: formats, adjusted modes, fractional rates, unplugging"
  SEGD_VIVID=1 timeout 600 ./camera_vm --test-threads=1 --nocapture >/tmp/camera.log 2>&1
  local result=$?
  grep -E '^(test |camera)' /tmp/camera.log
  [ $result -eq 0 ] || { tail -20 /tmp/camera.log; fail "camera tests"; }
}

# README's section, line by line, as somebody who may use sudo.
step_readme() {
  say "README, as a service"
  useradd -m -s /bin/bash admin && echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
  cp segd_*.deb /home/admin/
  { echo '#!/bin/bash'; declare -f use_camera; echo 'use_camera "$1"'; } >/usr/bin/editor
  chmod 755 /usr/bin/editor
  local line command result
  while IFS= read -r line <&3; do
    command=$(sed -e 's/ *#.*//' <<<"$line")
    case "$command" in
    # Parts of the configuration, which come with README's users and certificate.
    "" | "["* | *" = "*) continue ;;
    esac
    say "\$ $command"
    case "$command" in
    *hash-password*)
      # On a terminal (`su -c` would take it away), where it asks when it is ready, and takes nothing typed before.
      entry=$(for _ in {1..60}; do sleep 1 && echo "some password" || break; done |
        script -qec "su - admin --session-command '$command'" /dev/null | tr -d '\r' | grep -o 'ann:segd:[0-9a-f]\{32\}')
      [ -n "$entry" ] || fail "no entry for ann" ;;
    *)
      su - admin -c "$command" >/tmp/readme.log 2>&1
      result=$?
      grep -v '^\(Selecting\|Preparing\|Unpacking\|Reading\|Building\|(Reading\|Get:\|Created symlink\)' /tmp/readme.log | head -25
      [ $result -eq 0 ] || fail "it ended with $result" ;;
    esac
    case "$command" in
    *"apt install"*)
      [ "$(property ActiveState)" = inactive ] || fail "it runs unasked"
      id -nG segd | grep -qw video || fail "the user segd is not in group video"
      [ "$(stat -c %a,%G /etc/segd/segd.toml)" = "640,segd" ] || fail "permissions of /etc/segd/segd.toml" ;;
    *enable*)
      [ "$(property ActiveState)" = active ] || fail "not active"
      log_has "ready after_s" || fail "it returned before READY=1" ;;
    *status*) grep -q "active (running)" /tmp/readme.log || fail "it is not said to run" ;;
    *curl*) until_true 40 "healthy" healthy ;;
    *reload*) until_true 20 "the new configuration" log_has "was read again and is in force" ;;
    esac
  done 3<readme
  say "network: $(curl -s http://127.0.0.1:8555/metrics | sed -n 's/^segd_provider_info//p')"
  local path
  for path in readyz metrics status snapshot.jpg; do
    curl -sf "http://127.0.0.1:8555/$path" >/dev/null || fail "/$path"
  done
  [ "$(ps -o user= -p "$(property MainPID)")" = segd ] || fail "not run by the user segd"
}

# With the entry and the outputs that README's section gives.
step_access() {
  say "README's users and certificate"
  need_service
  entry=${entry:-ann:segd:$(printf 'ann:segd:some password' | md5sum | cut -d' ' -f1)}
  local outputs
  outputs=$(grep '^outputs' readme) || fail "README names no outputs"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=segd -out /etc/segd/tls.crt -keyout /etc/segd/tls.key 2>/dev/null
  chgrp segd /etc/segd/tls.key && chmod 640 /etc/segd/tls.key
  cp -p /etc/segd/segd.toml /etc/segd/segd.toml.before
  sed -i -e "s|^#outputs = .*|$outputs|" -e "s|^#users = .*|users = [\"$entry\"]|" -e 's|^#certificate = |certificate = |' \
    -e 's|^#key = |key = |' /etc/segd/segd.toml
  sudo -u segd segd check-config /etc/segd/segd.toml || fail "check-config"
  systemctl restart segd || fail "restart"
  watch "rtsps://ann:some%20password@127.0.0.1:8322/segd" tls
  until_true 20 "video over TLS" has_frames tls 5
  kill $client
  wait $client 2>/dev/null
  client=""
  timeout $((10 * SLOWNESS)) ffmpeg -nostdin -loglevel error -rtsp_transport tcp -i rtsps://127.0.0.1:8322/segd -frames:v 1 -f null - 2>/tmp/refused.log
  grep -q 401 /tmp/refused.log || fail "video without a password: $(cat /tmp/refused.log)"
  say "video over TLS with the password, 401 without"
  cp -p /etc/segd/segd.toml.before /etc/segd/segd.toml
  rm /etc/segd/segd.toml.before /etc/segd/tls.*
  systemctl stop segd || fail "systemctl stop"
}

step_exposure() {
  need_package
  local report score
  report=$(systemd-analyze security segd.service --no-pager 2>/dev/null | tail -1)
  score=$(sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p' <<<"$report")
  say "exposure ${score:-unknown}"
  awk "BEGIN { exit !(${score:-9} <= 1.5) }" || fail "$report"
}

step_ready() {
  say "start with a network of one convolution: systemctl returns when READY=1 has come"
  need_service
  systemctl stop segd
  local start
  now_ms
  start=$now
  systemctl start segd || fail "systemctl start"
  now_ms
  say "ready after $((now - start)) ms"
  [ "$(metric 'segd_frames_composed_total{camera="segd"}')" -gt 0 ] || fail "no picture had gone out"
  until_true 20 "healthy" healthy
  until_true 10 "a status" says StatusText " fps, mask age "
  say "status: $(property StatusText)"
}

step_unplug() {
  local unplugs n start lost took before loss_ms=0 back_ms=0 slowest_ms=0 counted captured missed dropped reconnects restarts
  unplugs=$(cat unplugs)
  need_client
  reconnects=$(metric 'segd_source_reconnects_total{camera="segd"}') restarts=$(property NRestarts)
  say "$unplugs unplugs under one client that never reconnects"
  counted=($(total segd_frames_captured_total) $(total segd_source_frames_lost_total) $(total segd_frames_dropped_total))
  for n in $(seq "$unplugs"); do
    now_ms
    start=$now
    echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind || fail "unbind $n"
    until_true 10 "loss $n is seen" source_is 0
    now_ms
    lost=$now
    echo vivid.0 >/sys/bus/platform/drivers/vivid/bind || fail "bind $n"
    until_true 20 "the camera is back, $n" source_is 1
    now_ms
    took=$((now - lost))
    loss_ms=$((loss_ms + lost - start)) back_ms=$((back_ms + took))
    [ $took -le $slowest_ms ] || slowest_ms=$took
    watched || fail "the client was disconnected at unplug $n"
    # It has recovered when it gave frames for a while.
    pause 1.1
    [ $((n % 20)) -ne 0 ] || say "$n unplugs, $(frames client) frames at the client, $(metric process_open_fds) files, $(($(metric process_resident_memory_bytes | sed 's/e.*//') / 1048576)) MiB"
  done
  say "seen after $((loss_ms / unplugs)) ms, back $((back_ms / unplugs)) ms after it was plugged in, $slowest_ms ms at most"
  before=$(frames client)
  until_true 10 "video after the last unplug" has_frames client $((before + 10))
  n=$(metric 'segd_source_reconnects_total{camera="segd"}')
  [ $((n - reconnects)) = "$unplugs" ] || fail "the source was opened again $((n - reconnects)) times"
  [ "$(property NRestarts)" = "$restarts" ] || fail "segd was restarted"
  # While the camera was there: numbers that the driver gave and segd did not get, and frames that a queue dropped.
  captured=$(($(total segd_frames_captured_total) - counted[0]))
  missed=$(($(total segd_source_frames_lost_total) - counted[1]))
  dropped=$(($(total segd_frames_dropped_total) - counted[2]))
  say "$captured frames captured, $missed missed between two of one opening, $dropped dropped, $(frames client) at the client, which connected once"
  [ $((100 * (missed + dropped))) -le $((captured * SLOWNESS)) ] || fail "frames were lost while the camera was there"
}

step_clock() {
  local jump before
  need_client
  say "the wall clock jumps a day ahead and back"
  for jump in "+1 day" "-1 day"; do
    before=$(frames client)
    date -s "$jump" >/dev/null
    until_true 10 "video after the clock's jump" has_frames client $((before + 20))
    healthy >/dev/null || fail "unwell after the clock's jump: $(curl -s http://127.0.0.1:8555/healthz)"
  done
  watched || fail "the client was disconnected by the clock"
}

step_reload() {
  local taken
  need_client
  say "reload"
  sed -i 's/^#visualize = .*/visualize = "mask"/' /etc/segd/segd.toml
  taken=$(metric 'segd_reloads_total{result="taken"}')
  systemctl reload segd || fail "systemctl reload"
  until_true 10 "the new configuration" segd_has 'segd_reloads_total{result="taken"}' $((taken + 1))
  watched || fail "the client was disconnected by the reload"
  sed -i 's/^visualize = .*/visualize = "glow"/' /etc/segd/segd.toml
  systemctl reload segd
  until_true 10 "the refusal" log_has "nothing was changed"
  sed -i 's/^visualize = .*/visualize = "overlay"/' /etc/segd/segd.toml
  watched || fail "the client was disconnected by the reload"
}

step_stop() {
  local start took
  need_client
  say "stop with a client watching"
  now_ms
  start=$now
  systemctl stop segd || fail "systemctl stop"
  now_ms
  took=$((now - start))
  [ "$(property Result)" = success ] || fail "it did not end well: $(property Result)"
  [ $took -lt 2000 ] || fail "stopping took $took ms"
  say "stopped in $took ms"
  wait "$client" 2>/dev/null
  client=""
}

step_hang() {
  local pid start
  say "a hang is ended by the watchdog"
  need_service
  pid=$(property MainPID)
  now_ms
  start=$now
  kill -STOP "$pid"
  until_true 20 "the watchdog's restart" says NRestarts '[1-9]'
  journalctl -u segd --no-pager | grep -qi "watchdog timeout" || fail "not by the watchdog"
  until_true 30 "ready again" curl -sf http://127.0.0.1:8555/readyz
  now_ms
  say "ready again after $((now - start)) ms: was $pid, is $(property MainPID)"
  [ "$(property MainPID)" != "$pid" ] || fail "it was not started again"
}

step_purge() {
  local left
  need_package
  say "purge"
  rm -r /etc/systemd/system/segd.service.d
  dpkg -P segd >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -P"; }
  left=$(find / -xdev \( -path /proc -o -path /sys -o -path /payload -o -path /tmp -o -path /home/admin -o -path '/var/log/*' -o -path '/var/lib/dpkg/*' \) -prune -o -name '*segd*' -print 2>/dev/null)
  [ -z "$left" ] || fail "left behind: $left"
  getent passwd segd && fail "the user is left"
  say "nothing is left"
}

ip link set lo up
echo "127.0.0.1 $(hostname)" >>/etc/hosts
modprobe vivid n_devs=1 node_types=0x1 || fail "vivid"
until_true 10 "/dev/video0" test -c /dev/video0
say "$(nproc) processors, $(systemd-detect-virt); kernel $(uname -r)"
client="" entry=""
# The shipped network's self-test takes a minute on an emulated processor.
mkdir -p /etc/systemd/system/segd.service.d
printf '[Service]\nTimeoutStartSec=%s\n' $((180 * SLOWNESS)) >/etc/systemd/system/segd.service.d/slow.conf
for step in $(cat steps); do
  case " $ALL " in
  *" $step "*) "step_$step" ;;
  *) fail "there is no step $step: $ALL" ;;
  esac
done
say "all passed"
exit 0
