# shellcheck shell=bash
# The parts of Kubernetes, each started in the node's namespaces with a log of its own.

API=https://$NODE_IP:6443
SERVICES=10.96.0.0/16
PODS=10.244.0.0/16

kube() { kubectl --kubeconfig "$KUBECONFIG_FILE" "$@"; }
ready() { kube wait --for=condition=Ready "node/$NODE" --timeout=1s >/dev/null 2>&1; }

certificate() { # NAME SUBJECT ALT-NAMES
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" \
    -keyout "$CERTS/$1.key" -out "$CERTS/$1.csr" 2>/dev/null
  openssl x509 -req -in "$CERTS/$1.csr" -CA "$CERTS/ca.crt" -CAkey "$CERTS/ca.key" -CAcreateserial -days 3650 \
    -out "$CERTS/$1.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3") 2>/dev/null
}

certificates() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=test-ca \
    -keyout "$CERTS/ca.key" -out "$CERTS/ca.crt" 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$NODE_IP,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate admin "/O=system:masters/CN=admin" DNS:admin
  certificate kcm "/CN=system:kube-controller-manager" DNS:kcm
  certificate scheduler "/CN=system:kube-scheduler" DNS:scheduler
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
  certificate proxy "/CN=system:kube-proxy" DNS:proxy
  certificate apiserver-kubelet "/O=system:masters/CN=apiserver-kubelet" DNS:apiserver
  openssl ecparam -name prime256v1 -genkey -noout -out "$CERTS/sa.key" 2>/dev/null
  openssl ec -in "$CERTS/sa.key" -pubout -out "$CERTS/sa.pub" 2>/dev/null
  local user
  for user in admin kcm scheduler kubelet proxy; do kubeconfig $user; done
}

kubeconfig() { # NAME: a kubeconfig that uses NAME's client certificate
  cat >"$STATE/$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: codexstore-test, cluster: {server: "$API", certificate-authority-data: $(base64 -w0 "$CERTS/ca.crt")}}]
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$CERTS/$1.crt"), client-key-data: $(base64 -w0 "$CERTS/$1.key")}
contexts: [{name: codexstore-test, context: {cluster: codexstore-test, user: $1}}]
current-context: codexstore-test
YAML
  chmod 0600 "$STATE/$1.conf"
}

start() { # NAME COMMAND...
  local name=$1
  shift
  # Started through a shell that ends at once, so that the node's first process adopts it.
  # shellcheck disable=SC2016 # expanded by that shell
  enter sh -c 'log=$1; shift; setsid "$@" >"$log" 2>&1 </dev/null &' sh "$LOG/$name.log" "$@" 9>&-
}

wait_for() { # WHAT COMMAND...: until it succeeds, two minutes at most
  local what=$1 end=$((SECONDS + 120))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS > end)); then
      tail -n 5 "$LOG"/*.log >&2
      [ ! -d "$HOME_DIR/failed" ] || rm -r "$HOME_DIR/failed"
      cp -r "$LOG" "$HOME_DIR/failed"
      die "$what did not come up; the logs are kept in $HOME_DIR/failed"
    fi
    sleep 0.25
  done
}

start_control_plane() {
  certificates
  start etcd etcd --data-dir "$STATE/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  # Aggregator routing makes the API server call webhooks at their pod's address: no route to ClusterIPs needed there.
  start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$NODE_IP" --secure-port=6443 \
    --service-cluster-ip-range=$SERVICES --client-ca-file="$CERTS/ca.crt" \
    --tls-cert-file="$CERTS/apiserver.crt" --tls-private-key-file="$CERTS/apiserver.key" \
    --service-account-key-file="$CERTS/sa.pub" --service-account-signing-key-file="$CERTS/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --enable-aggregator-routing=true --allow-privileged=true \
    --kubelet-client-certificate="$CERTS/apiserver-kubelet.crt" \
    --kubelet-client-key="$CERTS/apiserver-kubelet.key" --kubelet-preferred-address-types=InternalIP
  wait_for "the API server" kube get --raw /readyz
  start kcm kube-controller-manager --kubeconfig="$STATE/kcm.conf" --leader-elect=false \
    --service-account-private-key-file="$CERTS/sa.key" --root-ca-file="$CERTS/ca.crt" --use-service-account-credentials \
    --cluster-signing-cert-file="$CERTS/ca.crt" --cluster-signing-key-file="$CERTS/ca.key"
  start scheduler kube-scheduler --kubeconfig="$STATE/scheduler.conf" --leader-elect=false
}

start_node_parts() {
  write_node_config
  start containerd containerd -c "$STATE/containerd.toml"
  wait_for containerd ctr -a "$CONTAINERD" version
  load "$BIN/pause.tar"
  start kubelet kubelet --kubeconfig="$STATE/kubelet.conf" --config="$STATE/kubelet.yaml" \
    --hostname-override="$NODE" --node-ip="$NODE_IP" --root-dir="$STATE/kubelet" --cert-dir="$CERTS"
  start proxy kube-proxy --config="$STATE/proxy.yaml"
  start coredns coredns -conf "$STATE/Corefile"
  wait_for "the node" ready
  wait_for "the default service account" kube -n default get serviceaccount default
  kube apply -f "$HERE/storageclass.yaml" >/dev/null
  start provisioner "$HERE/cluster" provision
}

write_node_config() {
  # No portmap plugin: it would be the only one to write iptables rules, and only `hostPort` without hostNetwork needs it.
  cat >"$STATE/cni/10-pods.conflist" <<CNI
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$STATE/ipam", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
CNI
  local snapshotter=overlayfs
  [ "$(stat -f -c %T "$STATE")" != overlayfs ] || snapshotter=native # no overlay on top of an overlay
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower a sandbox's oom_score_adj.
  cat >"$STATE/containerd.toml" <<TOML
version = 2
root = "$STATE/containerd"
state = "$RUNTIME/state"
[grpc]
  address = "$CONTAINERD"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_plugins)"
    conf_dir = "$STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
  cat >"$STATE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $CERTS/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$CONTAINERD
volumePluginDir: $STATE/kubelet-plugins
podLogsDir: $STATE/pod-logs
tlsCertFile: $CERTS/kubelet.crt
tlsPrivateKeyFile: $CERTS/kubelet.key
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "100Mi"}
imageGCHighThresholdPercent: 100 # a removed image could not be pulled again
syncFrequency: 10s # Secret changes reach pods sooner than with the default minute
resolvConf: ""
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
YAML
  cat >"$STATE/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $PODS
clientConnection: {kubeconfig: $STATE/proxy.conf}
conntrack: {maxPerCore: 0}
hostnameOverride: $NODE
YAML
  cat >"$STATE/Corefile" <<DNS
.:53 {
  bind $NODE_IP
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $STATE/admin.conf codexstore-test
  }
}
DNS
}
