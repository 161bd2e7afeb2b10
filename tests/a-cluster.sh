# shellcheck shell=bash
# A cluster with the images on it, for tests and the demo: the caller's own, or one that is made and given back.
# Sets CODEXSTORE_TEST_KUBECONFIG, and PATH to find helm and kubectl.

CLUSTER_HOME=${CODEXSTORE_CLUSTER_HOME:-$HOME/.cache/codexstore-cluster}
ARCHIVES=(target/images/sidecar.tar target/images/operator.tar target/images/test-app.tar)
CLUSTER_IS_MINE=
GIVEN=${CODEXSTORE_TEST_KUBECONFIG:-}

# Two runs on one cluster would remove each other's namespaces.
one_run_at_a_time() {
  mkdir -p "$CLUSTER_HOME"
  exec 8>"$CLUSTER_HOME/run.lock"
  flock -n 8 && return 0
  echo "another run uses the cluster; waiting for it"
  flock 8
}

build_images() {
  images/build 8>&-
  images/test-app 8>&-
}

take_cluster() {
  if [ -n "$GIVEN" ]; then
    echo "using the cluster of CODEXSTORE_TEST_KUBECONFIG: $GIVEN"
  else
    # Its parts outlive this script when it ran before: they must not hold the lock.
    tests/cluster/cluster status >/dev/null 2>&1 || CLUSTER_IS_MINE=yes
    step "cluster up" tests/cluster/cluster up 8>&-
    [ -n "$STEP_OK" ] || exit 1
    export CODEXSTORE_TEST_KUBECONFIG=$CLUSTER_HOME/state/admin.conf
  fi
  [ ! -d "$CLUSTER_HOME/bin" ] || export PATH=$CLUSTER_HOME/bin:$PATH
}

load_images() {
  if [ -z "$GIVEN" ]; then
    tests/cluster/cluster load "${ARCHIVES[@]}" 8>&-
  elif [ -n "${CODEXSTORE_TEST_LOAD:-}" ]; then
    local archive command
    read -ra command <<<"$CODEXSTORE_TEST_LOAD"
    for archive in "${ARCHIVES[@]}"; do "${command[@]}" "$archive"; done
  else
    echo "CODEXSTORE_TEST_LOAD is not set: taking it that the cluster has the images localhost/codexstore-* already"
  fi
}

give_back_cluster() {
  [ -n "$CLUSTER_IS_MINE" ] || return 0
  if [ -n "${CODEXSTORE_KEEP_CLUSTER:-}" ]; then
    echo "CODEXSTORE_KEEP_CLUSTER is set: left running; tests/cluster/cluster env says how to use it"
  else
    tests/cluster/cluster down 8>&- || true
  fi
}
