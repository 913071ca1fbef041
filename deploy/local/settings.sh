# shellcheck shell=bash
# The settings of a stack, from HZEL_ variables: defaults, checks, and what `down` has to remember of `up`.
# Sourced after prepare.sh.

# What this machine's own package source makes: `hzel/debian:12` on Debian 12.
machine_image() (
  # shellcheck source=/dev/null
  . /etc/os-release
  echo "hzel/$ID:${VERSION_ID:-$VERSION_CODENAME}"
)

load_settings() {
  : "${HZEL_STATE_DIR:=/var/lib/hzel}"
  : "${HZEL_RUN_DIR:=/run/hzel}"
  : "${HZEL_LISTEN:=127.0.0.1:8080}"
  : "${HZEL_INSTANCE:=hzel}"
  : "${HZEL_NODE_NAME:=$(uname -n)}"
  : "${HZEL_DEFAULT_IMAGE:=$(machine_image)}"
  : "${HZEL_CONTAINERD:=}"
  : "${HZEL_NATS_URL:=}"
  : "${HZEL_NATS_PORT:=}"
  export HZEL_STATE_DIR HZEL_RUN_DIR HZEL_LISTEN HZEL_INSTANCE HZEL_NODE_NAME HZEL_DEFAULT_IMAGE
  export HZEL_CONTAINERD HZEL_NATS_URL HZEL_NATS_PORT
  check_folder HZEL_STATE_DIR
  check_folder HZEL_RUN_DIR
  # containerd's socket has the longest name under it, and the kernel allows 107 characters.
  [ "${#HZEL_RUN_DIR}" -le 60 ] || fail "HZEL_RUN_DIR is longer than 60 characters: sockets have to fit below it"
  [[ $HZEL_INSTANCE =~ ^[a-z][a-z0-9]{1,7}$ ]] ||
    fail "HZEL_INSTANCE is '$HZEL_INSTANCE': it must be two to eight lower-case letters and digits, a letter first"
  [[ $HZEL_LISTEN =~ ^(.+):([0-9]+)$ ]] || fail "HZEL_LISTEN is '$HZEL_LISTEN': it must be ADDRESS:PORT"
}

check_folder() {
  local value=${!1}
  # They go into configuration files of four formats, and `down --purge` removes them.
  [[ $value =~ ^(/[A-Za-z0-9._-]+){2,}$ && $value != */..* ]] ||
    fail "$1 is '$value': it must be an absolute path of two parts or more, of letters, digits, '.', '_' and '-'"
}

containerd_socket() { echo "${HZEL_CONTAINERD:-$HZEL_RUN_DIR/containerd/containerd.sock}"; }

# --- what up leaves for down ---

remember_settings() (
  umask 077 # a database's URL has a password
  for name in $(compgen -e HZEL_); do
    case $name in HZEL_CHECKOUT | HZEL_PYTHON) continue ;; esac
    printf '%s=%q\n' "$name" "${!name}"
  done >"$HZEL_STATE_DIR/settings.new"
  mv "$HZEL_STATE_DIR/settings.new" "$HZEL_STATE_DIR/settings"
)

# Sets what the environment does not: a stack started with its own settings is stopped with them.
recall_settings() {
  local file=${HZEL_STATE_DIR:-/var/lib/hzel}/settings line name
  [ -f "$file" ] || return 0
  while IFS= read -r line; do
    name=${line%%=*}
    [ -n "${!name:-}" ] || eval "export $line" # written by remember_settings with %q
  done <"$file"
}

# Names of links, cgroups and tables derive from the instance: two of one name would take each other's down.
require_own_instance() {
  local before pid
  before=$(sed -n 's/^HZEL_INSTANCE=//p' "$HZEL_STATE_DIR/settings" 2>/dev/null || true)
  [ -z "$before" ] || [ "$before" = "$HZEL_INSTANCE" ] ||
    fail "$HZEL_STATE_DIR belongs to the instance '$before', not '$HZEL_INSTANCE'; set HZEL_INSTANCE or another HZEL_STATE_DIR"
  for pid in $(pids_with environ "HZEL_INSTANCE=$HZEL_INSTANCE"); do
    if grep -qsz '^HZEL_STACK=' "/proc/$pid/environ" && ! has_entry "$pid" environ "HZEL_STACK=$HZEL_RUN_DIR"; then
      fail "another stack with HZEL_INSTANCE=$HZEL_INSTANCE runs already (process $pid); give this one another name"
    fi
  done
}
