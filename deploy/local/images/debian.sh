#!/usr/bin/env bash
# Usage: debian.sh OUT.tar
# The root file system of a small Debian or Ubuntu of this machine's own release, from this machine's own
# package source (mirror, components, proxy), so that apt works in the containers as it does here.
set -euo pipefail

packages=bash-completion,ca-certificates,curl,iproute2,iputils-ping,less,nano,procps,python3,vim-tiny

# The machine's release as lines of sources.list; foreign sources on the machine are left out.
sources() {
  local codename=$1 keyring=$2
  # shellcheck disable=SC2016  # apt-get and awk fill these in
  apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' |
    awk -F'|' -v codename="$codename" -v keyring="$keyring" '
      $1 == "Packages" && $2 ~ /^(Debian|Ubuntu)$/ && index($4, codename) == 1 && !seen[$0]++ {
        if (!(($3, $4) in components)) order[++n] = $3 SUBSEP $4
        components[$3, $4] = components[$3, $4] " " $5
      }
      END {
        for (i = 1; i <= n; i++) {
          split(order[i], part, SUBSEP)
          print "deb" (keyring ? " [signed-by=" keyring "]" : ""), part[1], part[2] components[order[i]]
        }
      }'
}

keyring() {
  local file=/usr/share/keyrings/$1-archive-keyring.gpg
  if [ -f "$file" ]; then echo "$file"; fi
}

proxy_options() {
  local scheme proxy
  for scheme in http https; do
    eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
    if [ -n "${proxy:-}" ]; then echo "--aptopt=Acquire::$scheme::Proxy \"$proxy\""; fi
  done
}

# /bin as a link into /usr without the package usrmerge, which brings all of Perl.
merged_usr_options() {
  local hooks=/usr/share/mmdebstrap/hooks/merged-usr
  if [ -d "$hooks" ] && apt-cache show usr-is-merged >/dev/null 2>&1; then
    printf '%s\n' "--hook-dir=$hooks" --include=usr-is-merged
  fi
}

main() {
  local out=$1 work options
  # shellcheck source=/dev/null
  . /etc/os-release
  work=$(mktemp -d -p "$(dirname "$out")" rootfs.XXXXXX)
  # shellcheck disable=SC2064  # this folder, whatever the variable is by then
  trap "rm -rf --one-file-system '$work'" EXIT
  chmod 755 "$work"
  sources "$VERSION_CODENAME" "$(keyring "$ID")" >"$work/sources.list"
  if [ ! -s "$work/sources.list" ]; then
    echo "debian.sh: apt has no source for $VERSION_CODENAME; run apt-get update" >&2
    exit 1
  fi
  mapfile -t options < <(proxy_options; merged_usr_options)
  SOURCE_DATE_EPOCH=$(date -u -d "$(date -u +%F)" +%s) TMPDIR=$work mmdebstrap \
    --mode=root --variant=minbase --format=directory --include="$packages" "${options[@]}" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$VERSION_CODENAME" "$work/rootfs" "$work/sources.list"
  # What mmdebstrap copied from this machine; a container gets its own.
  rm -f "$work"/rootfs/etc/{resolv.conf,hostname}
  : >"$work/rootfs/etc/resolv.conf"
  echo localhost >"$work/rootfs/etc/hostname"
  tar -C "$work/rootfs" --create --file "$out" --numeric-owner --sort=name --one-file-system \
    --xattrs --xattrs-include=security.capability --exclude='./dev/*' .
}

main "$@"
