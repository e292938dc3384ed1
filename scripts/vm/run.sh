#!/usr/bin/env bash
# Boots the VM with a package and the tests, and prints what the guest says. Usage:
# scripts/vm/run.sh PACKAGE.deb|- [STEP...]. The steps are those of guest.sh; all if none is named, the camera tests alone
# without a package (-). SEGD_VM_CAMERA_TESTS is the binary of the camera tests; cargo is asked for it otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."
package=$1
shift
steps="$*"
if [ "$package" = - ]; then steps=${steps:-camera}; fi
vm=.cache/vm
limit=${SEGD_VM_LIMIT_S:-2700}

camera_tests=${SEGD_VM_CAMERA_TESTS:-}
if [ -z "$camera_tests" ]; then
  camera_tests=$(cargo test --workspace --locked --no-run --test camera_vm --message-format=json 2>/dev/null \
    | sed -n 's/.*"name":"camera_vm".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
fi
payload=$(mktemp -d)
trap 'rm -rf "$payload"' EXIT
if [ "$package" != - ]; then
  # Without compression: taking it off costs an emulated processor minutes.
  dpkg-deb --raw-extract "$package" "$payload/package"
  dpkg-deb --build -Znone "$payload/package" "$payload/$(basename "$package")" >/dev/null
  rm -r "$payload/package"
fi
cp "$camera_tests" "$payload/camera_vm"
strip "$payload/camera_vm"
mkdir "$payload/model"
SEGD_TINY_MODEL=$payload/model "$camera_tests" --quiet a_tiny_network_is_written >/dev/null
cp scripts/vm/guest.sh "$payload/"
# The indented lines of README's section on the service: the guest runs them as they stand.
awk '/^## /{ on = ($0 == "## As a service") } on && sub(/^    /, "")' README.md >"$payload/readme"
grep -q 'systemctl enable' "$payload/readme"
echo "${SEGD_VM_UNPLUGS:-100}" >"$payload/unplugs"
echo "${steps:-$(sed -n 's/^ALL="\(.*\)"$/\1/p' scripts/vm/guest.sh)}" >"$payload/steps"
chmod -R a+rX "$payload"
tar -cf "$payload.tar" -C "$payload" .
trap 'rm -rf "$payload" "$payload.tar"' EXIT

# Whether a kernel boots under KVM: /dev/kvm alone says little where this machine is a virtual one itself.
kvm_works() {
  [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
  timeout 20 qemu-system-x86_64 -accel kvm -cpu max,arch-capabilities=off -m 256 -nographic -no-reboot -net none \
    -kernel $vm/vmlinuz -append "console=ttyS0 no_timer_check panic=-1" </dev/null 2>/dev/null | grep -aq "Kernel panic"
}

log=$vm/console.log
start=$SECONDS
# Emulation runs wherever QEMU does, many times slower.
accelerator=${SEGD_VM_ACCEL:-}
if [ -z "$accelerator" ]; then
  if kvm_works; then accelerator=kvm; else accelerator=tcg,thread=multi; fi
fi
echo "vm: $accelerator"
timeout "$limit" qemu-system-x86_64 -accel "$accelerator" -cpu max,arch-capabilities=off -smp 2 -m 2048 -nographic -no-reboot -net none \
  -kernel $vm/vmlinuz -initrd $vm/initrd.gz \
  -append "console=ttyS0 no_timer_check quiet loglevel=3 systemd.show_status=0 ${SEGD_VM_APPEND:-} rw root=/dev/vda panic=-1 mitigations=off" \
  -drive file=$vm/disk.img,format=raw,if=virtio,snapshot=on \
  -drive file="$payload.tar",format=raw,if=virtio,readonly=on \
  </dev/null 2>&1 | sed -u 's/\r//g' | tee $log
echo "vm: $((SECONDS - start)) s"
grep -q '^VM-RESULT 0$' $log
