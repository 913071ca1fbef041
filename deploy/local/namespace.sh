# shellcheck shell=bash
# The mount namespace in which a private containerd and the node's services run, pinned at
# $HZEL_RUN_DIR/ns/mnt so that it outlives them: containers' mounts are in it and nowhere else, and go with
# it. What the host mounts later appears in it too. Where cgroup v1 and v2 are mounted side by side, the v2
# mount is hidden in it, since crun refuses the mixture.
#
# With HZEL_CONTAINERD there is none: mounts must be where that containerd is.
# Sourced after processes.sh.

namespace_file() { echo "$HZEL_RUN_DIR/ns/mnt"; }

uses_namespace() { [ -z "$HZEL_CONTAINERD" ]; }

namespace_is_pinned() { [ "$(stat -f -c %T "$(namespace_file)" 2>/dev/null)" = nsfs ]; }

make_namespace() {
  if ! uses_namespace; then return 0; fi
  mkdir -p "$HZEL_RUN_DIR/ns" "$HZEL_RUN_DIR/containerd" /run/containerd
  if ! namespace_is_pinned; then pin_namespace; fi
  # Covered, not unmounted: crun makes groups in that folder in any case, and those must not be the host's files.
  if has_hybrid_cgroups && [ "$(in_namespace stat -f -c %T /sys/fs/cgroup/unified)" = cgroup2fs ]; then
    in_namespace mount -t tmpfs -o size=4m,mode=755 hzel /sys/fs/cgroup/unified
  fi
  # Shims make their sockets under /run/containerd whatever the configuration says: give them ours.
  in_namespace mountpoint -q /run/containerd || in_namespace mount --bind "$HZEL_RUN_DIR/containerd" /run/containerd
}

pin_namespace() {
  local pin
  pin=$(namespace_file)
  # The kernel lets no mount namespace be seen from within itself: the pin must not propagate.
  mountpoint -q "$HZEL_RUN_DIR/ns" || mount --bind "$HZEL_RUN_DIR/ns" "$HZEL_RUN_DIR/ns"
  mount --make-private "$HZEL_RUN_DIR/ns"
  : >"$pin"
  unshare --mount="$pin" --propagation slave true
}

has_hybrid_cgroups() {
  [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] &&
    [ "$(stat -f -c %T /sys/fs/cgroup/unified 2>/dev/null)" = cgroup2fs ]
}

# Runs a command from the checkout, in the namespace if there is one.
in_namespace() {
  set_inside
  "${INSIDE[@]}" "$@"
}

# Sets INSIDE to the words that, put before a command, do so.
set_inside() {
  INSIDE=(env -C "$HZEL_CHECKOUT")
  if uses_namespace; then INSIDE=(nsenter --mount="$(namespace_file)" -- "${INSIDE[@]}"); fi
}

# Prints the processes that are in the namespace.
namespace_pids() {
  local link name
  name="mnt:[$(stat -c %i "$(namespace_file)")]"
  for link in /proc/[0-9]*/ns/mnt; do
    if [ "$(readlink "$link" 2>/dev/null)" = "$name" ]; then cut -d/ -f3 <<<"$link"; fi
  done
}

remove_namespace() {
  local pids
  if namespace_is_pinned; then
    pids=$(namespace_pids | tr '\n' ' ')
    [ -z "$pids" ] || fail "these processes still use the mount namespace, so it stays: $pids"
    umount "$(namespace_file)"
  fi
  if mountpoint -q "$HZEL_RUN_DIR/ns"; then umount "$HZEL_RUN_DIR/ns"; fi
  # The empty folder below our mount. Not while another stack has its own there: that would go with it.
  if ! grep -qs ' /run/containerd ' /proc/[0-9]*/mountinfo; then rmdir /run/containerd 2>/dev/null || true; fi
}
