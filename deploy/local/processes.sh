# shellcheck shell=bash
# Finding and ending the processes of one stack: by what they were started with, never by name.
#
# All but containerd carry HZEL_STACK=<run folder> in their environment. containerd, whose children are the
# shims that outlive it, has a clean environment and is found by its configuration file.
# Sourced after settings.sh.

# Usage: pids_with environ|cmdline ENTRY. Prints the processes that have exactly this entry.
pids_with() {
  grep -lszxF -e "$2" /proc/[0-9]*/"$1" 2>/dev/null | cut -d/ -f3 || true
}

has_entry() { grep -qszxF -e "$3" "/proc/$1/$2"; }

supervisor_pid() {
  local pid
  pid=$(cat "$HZEL_RUN_DIR/supervisor/pid" 2>/dev/null) || return 1
  has_entry "$pid" environ "HZEL_STACK=$HZEL_RUN_DIR" && has_entry "$pid" cmdline supervisor.supervisord && echo "$pid"
}

# The supervisor runs, and under its tini, without which shims could end as zombies.
stack_is_running() {
  local pid parent
  pid=$(supervisor_pid) || return 1
  parent=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status" 2>/dev/null)
  [ -n "$parent" ] && has_entry "$parent" environ "HZEL_STACK=$HZEL_RUN_DIR"
}

stack_pids() {
  local pid
  {
    pids_with environ "HZEL_STACK=$HZEL_RUN_DIR"
    for pid in $(pids_with cmdline "$HZEL_RUN_DIR/config/containerd.toml"); do
      # Not somebody's editor or pager of that file.
      if has_entry "$pid" cmdline --config; then echo "$pid"; fi
    done
  } | sort -u
}

# The shims of our private containerd: they and the containers below them outlive everything else.
shim_pids() { pids_with cmdline "$HZEL_RUN_DIR/containerd/containerd.sock"; }

# Usage: wait_for_end SECONDS PID... . Fails when one still lives then.
wait_for_end() {
  local deadline=$((SECONDS + $1)) pid
  shift
  for pid in "$@"; do
    while is_alive "$pid"; do
      [ "$SECONDS" -lt "$deadline" ] || return 1
      sleep 0.05
    done
  done
}

is_alive() {
  local state
  state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) || return 1
  [ -n "$state" ] && [ "$state" != Z ]
}

# Ends the supervisor, which ends its programs in order, then whatever is left of the stack. Shims and their
# containers run on.
end_stack() {
  local pid pids signal
  if pid=$(supervisor_pid); then
    kill -TERM "$pid" 2>/dev/null || true
    wait_for_end 90 "$pid" || kill -KILL "$pid" 2>/dev/null || true
  fi
  for signal in TERM KILL; do
    pids=$(stack_pids)
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086  # a list of words
    kill -"$signal" $pids 2>/dev/null || true
    # shellcheck disable=SC2086
    wait_for_end 10 $pids || true
  done
  [ -z "$(stack_pids)" ] || fail "these processes of ours do not end: $(stack_pids | tr '\n' ' ')"
}

# One `up` or `down` at a time for a run folder, which `down` removes: a lock on a removed file is no lock.
take_lock() {
  while true; do
    mkdir -p "$HZEL_RUN_DIR"
    chmod 711 "$HZEL_RUN_DIR"
    exec 8>>"$HZEL_RUN_DIR/lock"
    if ! flock -n 8; then
      say "another up or down is at work here; waiting for it"
      flock -w 1800 8 || fail "it did not end within half an hour"
    fi
    if [ /proc/self/fd/8 -ef "$HZEL_RUN_DIR/lock" ]; then return; fi
    exec 8>&-
  done
}
