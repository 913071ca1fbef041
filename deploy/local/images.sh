# shellcheck shell=bash
# The images that this node makes itself, since a registry may be out of reach: hzel/busybox:latest, and the
# default image when it is the machine's own release.
# Sourced after programs.sh.

import_missing_images() {
  rm -rf --one-file-system "$HZEL_STATE_DIR"/image.* # of an interrupted start
  make_unless_there hzel/busybox:latest busybox
  if [ "$HZEL_DEFAULT_IMAGE" = "$(machine_image)" ]; then
    make_unless_there "$HZEL_DEFAULT_IMAGE" debian
  elif ! image_is_there "$HZEL_DEFAULT_IMAGE"; then
    say "the default image $HZEL_DEFAULT_IMAGE is not on this node yet, and this machine can only make $(machine_image)"
  fi
}

image_is_there() {
  local name=$1
  [[ ${name##*/} == *[:@]* ]] || name=$name:latest
  ctr --address "$(containerd_socket)" --namespace "$HZEL_INSTANCE" images ls -q | grep -qxF "$name"
}

# Usage: make_unless_there REFERENCE NAME. NAME.sh makes its root file system, NAME.json is its configuration.
make_unless_there() {
  local reference=$1 name=$2 folder status=0
  if image_is_there "$reference"; then return 0; fi
  say "making the image $reference"
  folder=$(mktemp -d -p "$HZEL_STATE_DIR" image.XXXXXX)
  {
    quietly "$HZEL_CHECKOUT/deploy/local/images/$name.sh" "$folder/rootfs.tar" &&
      quietly in_namespace "$HZEL_PYTHON" -m services.lifecycle.image_import "$reference" "$folder/rootfs.tar" \
        --config "$(cat "$HZEL_CHECKOUT/deploy/local/images/$name.json")"
  } || status=$?
  rm -rf "$folder"
  [ "$status" = 0 ] || fail_start "the image $reference could not be made"
}
