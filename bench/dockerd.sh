# shellcheck shell=bash
# A Docker Engine for as long as a benchmark runs. It has a network namespace of its own, so that its bridge and its
# iptables rules touch nothing of the host's and go with it, and a mount namespace of its own. Its files, sockets and
# containerd are in one folder, its containers in one control group.
# Sourced after prepare.sh.

docker_cgroup=hzel-versus-$$
docker_folder=
dockerd_pid=

install_docker() {
  if command -v dockerd >/dev/null && command -v docker >/dev/null; then return 0; fi
  # The package's own daemon would start with it, and change the host's network.
  keep_from_starting docker.service docker.socket
  install_now docker.io
  leave_disabled docker.service docker.socket
}

docker_socket() { echo "$docker_folder/docker.sock"; }

# Usage: start_dockerd FOLDER. Returns when it answers.
start_dockerd() {
  docker_folder=$1
  mkdir -p "$docker_folder"/{data,exec,containerd}
  # Shims put their sockets under /run/containerd whatever they are told; dockerd looks for plugins in /run/docker.
  mkdir -p /run/containerd /run/docker
  echo '{}' >"$docker_folder/daemon.json"
  # tini reaps what shims leave.
  # shellcheck disable=SC2016  # the inner shell expands it
  setsid tini -s -- unshare --net --mount --propagation slave bash -euc '
    folder=$1 cgroup=$2
    ip link set lo up
    mount --bind "$folder/containerd" /run/containerd
    mount -t tmpfs tmpfs /run/docker
    exec dockerd --config-file "$folder/daemon.json" --data-root "$folder/data" --exec-root "$folder/exec" \
      --pidfile "$folder/pid" -H "unix://$folder/docker.sock" --group root --cgroup-parent "/$cgroup"
  ' bash "$docker_folder" "$docker_cgroup" </dev/null >"$docker_folder/log" 2>&1 &
  dockerd_pid=$!
  local deadline=$((SECONDS + 60))
  until docker_answers; do
    if ! kill -0 "$dockerd_pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 20 "$docker_folder/log" >&2
      fail "dockerd does not start"
    fi
    sleep 0.1
  done
}

docker_answers() { docker -H "unix://$(docker_socket)" version >/dev/null 2>&1; }

# Ends it with its containers. Its namespaces, and all that was in them, end with its last process.
stop_dockerd() {
  local containers
  if [ -z "$dockerd_pid" ]; then return 0; fi
  containers=$(docker -H "unix://$(docker_socket)" ps -aq 2>/dev/null || true)
  if [ -n "$containers" ]; then
    # shellcheck disable=SC2086  # a list of words
    quietly docker -H "unix://$(docker_socket)" rm -f $containers || true
  fi
  kill -TERM "$dockerd_pid" 2>/dev/null || true
  wait "$dockerd_pid" || true
  dockerd_pid=
  remove_docker_cgroups
  rmdir /run/docker 2>/dev/null || true
  # Not while a stack has its own there: it would go with it.
  if ! grep -qs ' /run/containerd ' /proc/[0-9]*/mountinfo; then rmdir /run/containerd 2>/dev/null || true; fi
}

remove_docker_cgroups() {
  local tree
  for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if [ -d "$tree/$docker_cgroup" ]; then find "$tree/$docker_cgroup" -depth -type d -exec rmdir {} +; fi
  done
}
