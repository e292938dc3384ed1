#!/usr/bin/env bash
# Boots the VM with a package and the tests, and prints what the guest says. Usage: scripts/vm/run.sh PACKAGE.deb
# The camera tests' binary is found by asking cargo for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
package=$1
vm=.cache/vm
limit=${SEGD_VM_LIMIT_S:-2700}

camera_tests=$(cargo test --locked --no-run --test camera_vm --message-format=json 2>/dev/null \
  | sed -n 's/.*"name":"camera_vm".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
payload=$(mktemp -d)
trap 'rm -rf "$payload"' EXIT
cp "$package" "$payload/segd.deb"
cp "$camera_tests" "$payload/camera_vm"
strip "$payload/camera_vm"
mkdir "$payload/model"
SEGD_TINY_MODEL=$payload/model "$camera_tests" --quiet a_tiny_network_is_written >/dev/null
cp scripts/vm/guest.sh "$payload/"
echo "${SEGD_VM_UNPLUGS:-100}" >"$payload/unplugs"
chmod -R a+rX "$payload"
tar -cf "$payload.tar" -C "$payload" .
trap 'rm -rf "$payload" "$payload.tar"' EXIT

log=$vm/console.log
start=$SECONDS
# Emulation (tcg), so that it runs wherever QEMU does.
timeout "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nographic -no-reboot -net none \
  -kernel $vm/vmlinuz -initrd $vm/initrd.gz \
  -append "console=ttyS0 quiet loglevel=3 systemd.show_status=0 rw root=/dev/vda mitigations=off" \
  -drive file=$vm/disk.img,format=raw,if=virtio,snapshot=on \
  -drive file="$payload.tar",format=raw,if=virtio,readonly=on \
  </dev/null 2>&1 | tr -d '\r' | tee $log
echo "vm: $((SECONDS - start)) s"
grep -q '^VM-RESULT 0$' $log
