# shellcheck shell=bash
# The node's namespaces: made around one small process, entered by everything else, gone when that process ends.

CGROUP=codexstore-cluster # the kubelet's part of each cgroup hierarchy
# Directories whose place is compiled into containerd, runc, CNI or the kubelet: the node has its own in their stead.
PRIVATE_DIRS=(/run/containerd /run/netns /var/lib/cni /var/lib/kubelet /var/log)

# What must hold before anything is made. Another kubelet would fight over cgroups and the machine's resources.
check_machine() {
  [ ${#HOME_DIR} -le 60 ] || die "$HOME_DIR is too long for socket paths below it; set CODEXSTORE_CLUSTER_HOME"
  local pid other=
  for pid in $(pgrep -x kubelet || true) $(pgrep -x k3s || true); do
    [ "$(program "$pid")" = "$BIN/kubelet" ] || other+=" $pid"
  done
  [ -z "$other" ] || die "another kubelet runs on this machine (process$other): set CODEXSTORE_TEST_KUBECONFIG to its cluster, or use a machine of its own"
  if [ -e "$RUNTIME/home" ] && [ "$(cat "$RUNTIME/home")" != "$HOME_DIR" ]; then
    die "a cluster kept in $(cat "$RUNTIME/home") uses $RUNTIME: stop that one first (CODEXSTORE_CLUSTER_HOME=$(cat "$RUNTIME/home") $0 down)"
  fi
  if ip link show "$LINK" >/dev/null 2>&1 && [ ! -e "$RUNTIME/home" ]; then
    die "a network link named $LINK exists that this tool did not make"
  fi
  if [ ! -e "$RUNTIME/home" ] && ip route get "$NODE_IP" 2>/dev/null | grep -q "$NODE_IP dev"; then
    die "this machine has a network of its own at $NODE_IP"
  fi
  local free
  free=$(df -Pm "$(dirname "$HOME_DIR")" | awk 'NR == 2 {print $4}')
  [ "$free" -ge 4000 ] || die "only $free MB free for $HOME_DIR: about 4 GB are needed"
}

# The process that holds the namespaces, known by pid, start time and program: a pid alone may be somebody else's by now.
node_pid() {
  local pid started
  read -r pid started 2>/dev/null <"$STATE/node.pid" || return 1
  [ "$(start_time "$pid")" = "$started" ] && [ "$(program "$pid")" = "$BIN/pause" ] && echo "$pid"
}
program() { # PID: its file, also when that was replaced since
  local file
  file=$(readlink "/proc/$1/exe") && echo "${file% (deleted)}"
}
start_time() { # PID: the 22nd field of its stat; the second may hold blanks
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '{print $20}'
}
node_alive() { node_pid >/dev/null 2>&1; }

enter() { # COMMAND...: in the node's namespaces
  nsenter --target "$(node_pid)" --mount --pid --net --uts --wd=/ "$@"
}

make_node() {
  mkdir -p "$STATE" "$LOG" "$CERTS" "$STATE/cni" "$STATE/volumes" "$RUNTIME"
  echo "$HOME_DIR" >"$RUNTIME/home"
  chmod 0700 "$STATE" "$RUNTIME"
  setsid unshare --fork --kill-child --mount-proc --pid --net --uts "$BIN/pause" >"$LOG/node.log" 2>&1 </dev/null 9>&- &
  local outer=$! pid=
  for _ in $(seq 100); do
    pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null) pid=${pid// /}
    [ -n "$pid" ] && [ "$(program "$pid")" = "$BIN/pause" ] && break
    pid=
    sleep 0.05
  done
  [ -n "$pid" ] || die "this machine does not allow new namespaces: $(cat "$LOG/node.log")"
  echo "$pid $(start_time "$pid")" >"$STATE/node.pid"

  private_dirs
  sysctls
  network "$pid"
  cgroups
  enter hostname "$NODE"
}

private_dirs() {
  enter mount --make-rshared / # volumes of pods propagate, within the node only
  local dir
  for dir in "${PRIVATE_DIRS[@]}"; do
    if [ ! -d "$dir" ]; then
      mkdir -p "$dir"
      echo "$dir" >>"$STATE/made-dirs"
    fi
    mkdir -p "$STATE/private$dir"
    enter mount --bind "$STATE/private$dir" "$dir"
  done
}

# The kubelet insists on these and would set them for the whole machine: it sees files with what it wants instead.
sysctls() {
  local name value
  while read -r name value; do
    [ -e "/proc/sys/$name" ] || continue
    mkdir -p "$STATE/sysctl/${name%/*}"
    echo "$value" >"$STATE/sysctl/$name"
    enter mount --bind "$STATE/sysctl/$name" "/proc/sys/$name"
  done <<'LIST'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
LIST
}

# One link between machine and node; pods and services have addresses only within the node.
network() { # PID
  ip link add "$LINK" type veth peer name node0 netns "$1"
  ip address add "$MACHINE_IP/30" dev "$LINK"
  ip link set "$LINK" up
  enter ip link set lo up
  enter ip address add "$NODE_IP/30" dev node0
  enter ip link set node0 up
  # Service addresses need some route before they are rewritten; nothing else leaves the node.
  enter ip route add 10.96.0.0/16 dev node0
  enter sysctl -qw net.ipv4.ip_forward=1
  enter sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
}

cgroups() {
  local root=/sys/fs/cgroup h c
  if [ -e $root/cgroup.controllers ]; then
    delegate "$root"
    mkdir -p "$root/$CGROUP"
    delegate "$root/$CGROUP"
    return 0
  fi
  for h in "$root"/*/; do
    [ -e "$h/cgroup.procs" ] || continue
    mkdir -p "$h$CGROUP"
    # An empty cpuset admits no process.
    for c in cpuset.cpus cpuset.mems; do [ ! -e "$h$CGROUP/$c" ] || cat "$h$c" >"$h$CGROUP/$c"; done
  done
}

delegate() { # DIRECTORY: its controllers, to its children
  local c controllers
  read -ra controllers <"$1/cgroup.controllers"
  for c in "${controllers[@]}"; do echo "+$c" >"$1/cgroup.subtree_control" 2>/dev/null || true; done
}

# Ends the node and removes all it left behind; also what a crashed run left.
remove_node() {
  local pid dir
  if pid=$(node_pid); then
    kill -KILL "$pid" # the kernel ends every process of its namespace with it
    until_gone "the node's processes" test ! -e "/proc/$pid"
  fi
  if [ ! -e "$STATE" ] && [ ! -e "$RUNTIME/home" ]; then
    return 0
  fi
  [ ! -e "$RUNTIME/home" ] || [ "$(cat "$RUNTIME/home")" = "$HOME_DIR" ] || return 0
  ip link delete "$LINK" 2>/dev/null || true
  until_gone "the node's loop devices" no_loops
  find /sys/fs/cgroup -depth -type d -path "*/$CGROUP*" 2>/dev/null | while read -r dir; do
    until_gone "cgroup $dir" rmdir_gone "$dir"
  done
  if grep -qF " $STATE" /proc/mounts; then
    die "something is still mounted below $STATE; not removing it: $(grep -F " $STATE" /proc/mounts | awk '{print $2}')"
  fi
  if [ -f "$STATE/made-dirs" ]; then
    xargs rmdir --ignore-fail-on-non-empty <"$STATE/made-dirs" 2>/dev/null || true
  fi
  rm -rf "$STATE" "$RUNTIME"
}
no_loops() { ! losetup -l -n -O BACK-FILE 2>/dev/null | grep -qF "$STATE/"; }
rmdir_gone() { rmdir "$1" 2>/dev/null || [ ! -d "$1" ]; }

# `return 0`, not `return`: in a trap, the latter gives the status from before the trap.
until_gone() { # WHAT CONDITION...: half a minute at most
  local what=$1
  shift
  for _ in $(seq 300); do
    "$@" && return 0
    sleep 0.1
  done
  die "$what did not go away"
}
