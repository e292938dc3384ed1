#!/usr/bin/env bash
# Builds what the VM tests boot, once, into .cache/vm: Debian 12 with systemd and GStreamer on a disk image, a kernel
# with the vivid camera driver, and an initramfs that mounts the disk. Needs root (or sudo), debootstrap, 3 GB.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.cache/vm
version=2
if [ -f "$out/VERSION" ] && [ "$(cat "$out/VERSION")" = "$version" ]; then exit 0; fi
case "$(uname -m)" in
x86_64) ;;
*) echo "vm: the VM tests run on x86_64 hosts only" >&2; exit 1 ;;
esac
# It runs in the initramfs, where there is no libc.
linked=$(ldd "$(command -v busybox)" 2>&1 || true) # ldd fails where there is nothing to list.
if [[ $linked != *"not a dynamic executable"* ]]; then
  echo "vm: $(command -v busybox) is linked dynamically, expected the package busybox-static" >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
mkdir -p "$out"

root=$out/root
if [ ! -f "$root/.installed" ]; then
  echo "vm: debootstrap (some minutes, once)"
  $as_root rm -rf "$root"
  $as_root debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,kmod,procps,iproute2,ca-certificates \
    bookworm "$root" >"$out/debootstrap.log" 2>&1 || { tail -20 "$out/debootstrap.log" >&2; exit 1; }
  echo "vm: GStreamer and clients"
  # apt solves what debootstrap can't: dependencies with alternatives.
  in_root() { $as_root chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
  in_root apt-get update -qq
  in_root apt-get install -y -qq --no-install-recommends \
    curl ffmpeg adduser sudo openssl glib-networking gstreamer1.0-plugins-{base,good,bad,ugly} gstreamer1.0-libav libgstrtspserver-1.0-0 \
    >"$out/apt.log" 2>&1 || { tail -20 "$out/apt.log" >&2; exit 1; }
  $as_root touch "$root/.installed"
fi

echo "vm: kernel"
package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
(cd "$out" && rm -f linux-image-*.deb && apt-get download -q "$package" >/dev/null)
$as_root rm -rf "$out/kernel" && mkdir -p "$out/kernel"
dpkg-deb -x "$out"/linux-image-*.deb "$out/kernel"
release=$(ls "$out/kernel/lib/modules")
cp "$out/kernel/boot/vmlinuz-$release" "$out/vmlinuz"
depmod -b "$out/kernel" "$release"

# The modules of vivid go onto the disk, those of the disk into the initramfs.
modules_of() {
  for name in "$@"; do
    modprobe --set-version "$release" --dirname "$out/kernel" --show-depends "$name" | sed -n 's/^insmod //p'
  done | awk '!seen[$1]++ { print $1 }'
}
$as_root mkdir -p "$root/lib/modules/$release"
for module in $(modules_of vivid) ; do
  target=$root/lib/modules/$release/${module##*"/$release/"}
  $as_root mkdir -p "$(dirname "$target")"
  $as_root cp "$module" "$target"
done
$as_root cp "$out/kernel/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/"
$as_root depmod -b "$root" "$release"

initrd=$out/initrd
rm -rf "$initrd" && mkdir -p "$initrd"/{bin,proc,sys,dev,mnt,modules}
cp "$(command -v busybox)" "$initrd/bin/busybox"
{
  echo '#!/bin/busybox sh'
  echo '/bin/busybox mount -t proc p /proc; /bin/busybox mount -t sysfs s /sys; /bin/busybox mount -t devtmpfs d /dev'
  for module in $(modules_of virtio_pci virtio_blk ext4 crc32c_generic); do
    cp "$module" "$initrd/modules/"
    echo "/bin/busybox insmod /modules/$(basename "$module")"
  done
  echo 'n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do /bin/busybox sleep 0.1; n=$((n+1)); done'
  echo '/bin/busybox mount -t ext4 /dev/vda /mnt && exec /bin/busybox switch_root /mnt /sbin/init'
  echo 'echo "no root disk"; /bin/busybox poweroff -f'
} >"$initrd/init"
chmod 755 "$initrd/init"
(cd "$initrd" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$out/initrd.gz")

echo "vm: disk"
# What the tests bring is a tar archive on the second disk; their output goes to the serial console.
$as_root tee "$root/etc/systemd/system/vm-test.service" >/dev/null <<'UNIT'
[Unit]
Description=the tests
After=multi-user.target systemd-udevd.service
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'mkdir -p /payload && tar -xf /dev/vdb -C /payload && bash /payload/guest.sh; echo "VM-RESULT $?"; sync; systemctl poweroff -ff'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=default.target
UNIT
$as_root mkdir -p "$root/etc/systemd/system/default.target.wants"
$as_root ln -sf ../vm-test.service "$root/etc/systemd/system/default.target.wants/vm-test.service"
$as_root ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
for unit in systemd-networkd-wait-online systemd-timesyncd apt-daily apt-daily-upgrade e2scrub_reap; do
  $as_root ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
$as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,man,locale}/*
rm -f "$out/disk.img"
$as_root mke2fs -q -t ext4 -d "$root" "$out/disk.img" 2G
$as_root chown "$(id -u)" "$out/disk.img"
$as_root rm -rf "$root" "$out/kernel" "$initrd" "$out"/linux-image-*.deb
echo "$version" >"$out/VERSION"
