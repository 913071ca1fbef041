#!/usr/bin/env bash
# Usage: busybox.sh OUT.tar
# The root file system of hzel/busybox: one static program and its links, made in under a second.
set -euo pipefail
out=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,dev,proc,sys,run,tmp,var/tmp,root,home}
chmod 755 "$root"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 700 "$root/root"

install -m 755 /bin/busybox "$root/bin/busybox"
# It lists itself: a link to itself would be of no use.
for folder in bin sbin usr/bin usr/sbin; do
  /bin/busybox --list-full | sed -n "s#^$folder/\([^/]*\)\$#\1#p" | grep -vx busybox |
    xargs -I{} echo "$root/$folder/{}" | xargs -n 1 ln -s /bin/busybox
done

cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
END
cat >"$root/etc/group" <<'END'
root:x:0:
daemon:x:1:
tty:x:5:
nogroup:x:65534:
END
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
: >"$root/etc/resolv.conf"

tar -C "$root" --create --file "$out" --numeric-owner --owner=0 --group=0 --sort=name .
