# shellcheck shell=bash
# Everything this machine needs before hzel or its tests can run. Sourced; then `prepare`:
# a fresh Debian 12/13 or Ubuntu 22.04/24.04 becomes one with the packages, a virtual environment in
# <checkout>/.venv, the generated code in <checkout>/gen and the kernel modules. When all of it is there
# already, it costs some tenths of a second.
#
# Afterwards HZEL_PYTHON, PYTHONPATH and PATH are set and exported. Nothing is started.

HZEL_CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
HZEL_PYTHON=$HZEL_CHECKOUT/.venv/bin/python
PYTHONPATH=$HZEL_CHECKOUT:$HZEL_CHECKOUT/gen
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export HZEL_CHECKOUT HZEL_PYTHON PYTHONPATH PATH

say() { printf 'hzel: %s\n' "$*"; }

fail() {
  printf 'hzel: %s\n' "$*" >&2
  exit 1
}

# Runs a command that only matters when it fails: then its last lines are shown.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [ "$status" != 0 ]; then tail -n 30 "$log" >&2; fi
  rm -f "$log"
  return "$status"
}

prepare() {
  require_machine
  # One at a time in a checkout; whoever waited finds the work done.
  exec 7<"$HZEL_CHECKOUT"
  flock 7
  install_packages
  make_environment
  "$HZEL_CHECKOUT/scripts/generate" 7<&- || fail "the code in gen/ could not be generated from protos/"
  exec 7<&-
  load_modules
}

require_machine() {
  [ "$(id -u)" = 0 ] || fail "this needs root"
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "this machine is $(uname -m); only x86_64 and arm64 (aarch64) are supported" ;;
  esac
  local major minor
  IFS=.- read -r major minor _ <<<"$(uname -r)"
  if [ "$major" -lt 5 ] || { [ "$major" = 5 ] && [ "$minor" -lt 19 ]; }; then
    fail "the kernel is $(uname -r); 5.19 or later is needed (id-mapped layers under overlayfs);" \
      "on Ubuntu 22.04 the package linux-generic-hwe-22.04 brings one"
  fi
  command -v apt-get >/dev/null || fail "this is no Debian or Ubuntu: there is no apt-get"
}

# --- packages ---

install_packages() {
  local missing
  missing=$(missing_packages)
  if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # a list of words
    install_now $missing
  fi
  if ! system_python >/dev/null; then
    # Ubuntu 22.04: python3 is 3.10 there, and 3.11 lies beside it.
    install_now python3.11 python3.11-venv
    system_python >/dev/null || fail "no Python 3.11 or later with its venv module in /usr/bin"
  fi
}

# Prints the packages whose files are not there. By what they bring, not by name: containerd, for one, may
# have come from elsewhere.
missing_packages() {
  local package file
  compgen -G '/usr/lib/python3*/ensurepip/__init__.py' >/dev/null || printf 'python3-venv '
  while read -r package file; do
    if [ ! -e "$file" ] && ! command -v "$file" >/dev/null; then printf '%s ' "$package"; fi
  done <<'END'
busybox-static /bin/busybox
ca-certificates update-ca-certificates
containerd containerd
crun crun
e2fsprogs mkfs.ext4
golang-github-containers-common /usr/share/containers/seccomp.json
iproute2 ip
mmdebstrap mmdebstrap
mount mount
nftables nft
python3 /usr/bin/python3
tar tar
tini tini-static
util-linux nsenter
END
}

install_now() {
  say "installing packages: $*"
  local package services_off=()
  for package in "$@"; do
    case $package in containerd | postgresql) services_off+=("$package.service") ;; esac
  done
  keep_from_starting "${services_off[@]}"
  # A source out of reach need not matter; whether the packages are there shows at once.
  quietly apt-get -o DPkg::Lock::Timeout=600 update || say "apt-get update had errors; going on with what it got"
  local status=0
  DEBIAN_FRONTEND=noninteractive quietly apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "$@" ||
    status=$?
  leave_disabled "${services_off[@]}"
  [ "$status" = 0 ] || fail "apt-get could not install: $*"
}

# A package that brings a service starts and enables it. Ours are only programs to us: the unit is masked
# while the package is installed, then disabled, so that nothing runs that did not run before.
keep_from_starting() {
  local unit
  [ -d /run/systemd/system ] || return 0
  for unit in "$@"; do quietly systemctl mask --runtime "$unit" || true; done
}

leave_disabled() {
  local unit
  [ -d /run/systemd/system ] || return 0
  for unit in "$@"; do
    quietly systemctl unmask --runtime "$unit" || true
    quietly systemctl disable "$unit" || true
  done
}

# --- Python ---

# Prints the first of the distribution's interpreters that is new enough; fails when there is none.
system_python() {
  local python
  for python in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

make_environment() {
  local venv=$HZEL_CHECKOUT/.venv stamp python
  python=$(system_python)
  # Scripts in a virtual environment name its place, and its packages the interpreter's version.
  stamp="$HZEL_CHECKOUT $("$python" -V) $(sha256sum <"$HZEL_CHECKOUT/requirements.lock")"
  if [ -x "$HZEL_PYTHON" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  say "making the virtual environment .venv (from requirements.lock)"
  quietly "$python" -m venv --clear "$venv" || fail "the virtual environment could not be made"
  quietly "$HZEL_PYTHON" -m pip install --disable-pip-version-check --quiet \
    --require-hashes --no-deps --only-binary :all: -r "$HZEL_CHECKOUT/requirements.lock" ||
    fail "the packages of requirements.lock could not be installed"
  echo "$stamp" >"$venv/stamp"
}

# --- kernel ---

# Best effort: what is built in or loaded already needs nothing, and a container has no modules to load.
load_modules() {
  local module
  if [ ! -d "/lib/modules/$(uname -r)" ] || ! command -v modprobe >/dev/null; then return 0; fi
  for module in overlay loop veth bridge nf_tables nft_chain_nat nft_masq nft_ct nft_limit \
    sch_tbf sch_ingress sch_fq_codel cls_u32 act_police; do
    [ -d "/sys/module/$module" ] || modprobe -q "$module" || true
  done
}
