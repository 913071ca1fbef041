# shellcheck shell=bash
# What runs in a stack: configuration files in $HZEL_RUN_DIR/config, and the supervisor that starts the
# programs and restarts each that dies. Logs are in $HZEL_STATE_DIR/logs.
# Sourced after namespace.sh.

# In the order in which they start; they stop in the reverse one.
SERVICES=(keeper lifecycle exec terminal metrics gateway)

make_folders() {
  local private=("$HZEL_STATE_DIR"/{logs,nats} "$HZEL_RUN_DIR"/{config,supervisor})
  mkdir -p "${private[@]}"
  chmod 700 "${private[@]}"
  # Containers' roots are below these, and their runtime passes through as a user of theirs.
  chmod 711 "$HZEL_STATE_DIR" "$HZEL_RUN_DIR"
}

# Usage: write_configuration PROGRAM... . The configuration of a stack of these.
write_configuration() {
  local program priority=0 config=$HZEL_RUN_DIR/config
  write_supervisor_head >"$config/supervisord.conf"
  for program in "$@"; do
    priority=$((priority + 10))
    case $program in
      containerd)
        write_containerd >"$config/containerd.toml"
        # Its environment is also its shims', which must not look like part of the stack.
        write_program "$program" "$priority" "/usr/bin/env -i PATH=$(safe_path) containerd --config $config/containerd.toml"
        ;;
      nats)
        (umask 077 && write_nats >"$config/nats.conf")
        write_program "$program" "$priority" ".venv/bin/nats-server -c $config/nats.conf"
        ;;
      keeper) write_program "$program" "$priority" ".venv/bin/python -m services.exec.keeper" ;;
      *) write_program "$program" "$priority" ".venv/bin/python -m services.$program" ;;
    esac >>"$config/supervisord.conf"
  done
}

safe_path() { echo /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; }

all_programs() {
  if uses_namespace; then echo containerd; fi
  if uses_private_nats; then echo nats; fi
  printf '%s\n' "${SERVICES[@]}"
}

write_supervisor_head() {
  cat <<END
[supervisord]
nodaemon = true
silent = true
user = root
logfile = $HZEL_STATE_DIR/logs/supervisord.log
logfile_maxbytes = 5MB
logfile_backups = 2
pidfile = $HZEL_RUN_DIR/supervisor/pid

[unix_http_server]
file = $HZEL_RUN_DIR/supervisor/control.sock
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://$HZEL_RUN_DIR/supervisor/control.sock
END
}

# startsecs = 0: a program counts as started at once, so its end is never a "failed start", after which the
# supervisor would wait longer each time and give up in the end. It restarts within about a second.
write_program() {
  cat <<END

[program:$1]
priority = $2
command = $3
autorestart = true
startsecs = 0
stopwaitsecs = 20
redirect_stderr = true
stdout_logfile = $HZEL_STATE_DIR/logs/$1.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 3
END
}

write_containerd() {
  cat <<END
version = 2
root = "$HZEL_STATE_DIR/containerd"
state = "$HZEL_RUN_DIR/containerd"
oom_score = -999
disabled_plugins = [
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.monitor.v1.cgroups",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.native",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "$HZEL_RUN_DIR/containerd/containerd.sock"

[debug]
  level = "info"
END
}

# --- the broker ---

uses_private_nats() { [ -z "$HZEL_NATS_URL" ]; }

# Sets nats_port and nats_password, both kept from one start to the next.
choose_nats() {
  local folder=$HZEL_STATE_DIR/nats
  if [ ! -s "$folder/password" ]; then
    (umask 077 && od -An -N 24 -t x1 /dev/urandom | tr -d ' \n' >"$folder/password")
  fi
  nats_password=$(cat "$folder/password")
  # NATS's own port, but for other instances, which may be starting at the same moment.
  local usual=4222
  [ "$HZEL_INSTANCE" = hzel ] || usual=$((20000 + RANDOM % 10000))
  nats_port=${HZEL_NATS_PORT:-$(cat "$folder/port" 2>/dev/null || echo "$usual")}
  if answers 127.0.0.1 "$nats_port"; then
    [ -z "$HZEL_NATS_PORT" ] || fail "port $HZEL_NATS_PORT (HZEL_NATS_PORT) is taken"
    while answers 127.0.0.1 "$nats_port"; do nats_port=$((20000 + RANDOM % 10000)); done
  fi
  echo "$nats_port" >"$folder/port"
}

# Usage: answers ADDRESS PORT. Whether something listens there.
answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

nats_url() { echo "nats://hzel:$nats_password@127.0.0.1:$nats_port"; }

write_nats() {
  cat <<END
listen: "127.0.0.1:$nats_port"
server_name: "$HZEL_INSTANCE"
authorization { user: "hzel", password: "$nats_password" }
jetstream { store_dir: "$HZEL_STATE_DIR/nats", sync_interval: "1s" }
END
}

# --- the supervisor ---

# Starts it below a tini that reaps what shims leave, away from this terminal. Sets tini_pid, and log_start: where
# the supervisor's log of this start begins.
start_supervisor() {
  local url=$HZEL_NATS_URL
  if [ -z "$url" ] && [ -n "${nats_port:-}" ]; then url=$(nats_url); fi
  log_start=$(stat -c %s "$HZEL_STATE_DIR/logs/supervisord.log" 2>/dev/null || echo 0)
  # What a killed one left: who waits for these must see the new ones.
  rm -f "$HZEL_RUN_DIR/supervisor/pid" "$HZEL_RUN_DIR/containerd/containerd.sock"
  (
    ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
    umask 022
    export HZEL_STACK=$HZEL_RUN_DIR HZEL_NATS_URL=$url PYTHONUNBUFFERED=1
    set_inside
    exec "${INSIDE[@]}" setsid tini -s -- \
      .venv/bin/python -m supervisor.supervisord -c "$HZEL_RUN_DIR/config/supervisord.conf"
  ) </dev/null >>"$HZEL_STATE_DIR/logs/supervisord.err" 2>&1 8>&- &
  tini_pid=$!
}

supervisorctl() {
  "$HZEL_PYTHON" -m supervisor.supervisorctl -c "$HZEL_RUN_DIR/config/supervisord.conf" "$@"
}

# Prints the name of a program that was started five times since the supervisor was; fails if there is none.
dying_program() {
  tail -c "+$((log_start + 1))" "$HZEL_STATE_DIR/logs/supervisord.log" 2>/dev/null |
    sed -n "s/.*spawned: '\([a-z]*\)'.*/\1/p" | sort | uniq -c | awk '$1 >= 5 { print $2; found = 1; exit } END { exit !found }'
}

show_log() {
  printf 'hzel: the last lines of %s:\n' "$HZEL_STATE_DIR/logs/$1" >&2
  tail -n 20 "$HZEL_STATE_DIR/logs/$1" >&2 || true
}

containerd_answers() { [ -S "$(containerd_socket)" ] && ctr --address "$(containerd_socket)" version >/dev/null 2>&1; }

# Usage: wait_until SECONDS COMMAND... . Fails, saying why, when a program keeps dying or time is up.
wait_until() {
  local deadline=$((SECONDS + $1)) checked=$SECONDS program
  shift
  until "$@"; do
    if [ "$SECONDS" != "$checked" ]; then
      checked=$SECONDS
      if program=$(dying_program); then
        printf 'hzel: %s keeps dying\n' "$program" >&2
        show_log "$program.log"
        return 1
      fi
      if ! is_alive "$tini_pid"; then
        printf 'hzel: the supervisor ended\n' >&2
        show_log supervisord.err
        return 1
      fi
      if [ "$SECONDS" -ge "$deadline" ]; then
        printf 'hzel: waited too long for: %s\n' "$*" >&2
        show_log supervisord.log
        return 1
      fi
    fi
    sleep 0.05
  done
}
