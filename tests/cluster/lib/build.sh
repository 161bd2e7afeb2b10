# shellcheck shell=bash
# What the cluster is made of: Debian's packages, and Kubernetes itself compiled from Go modules.

K8S_VERSION=v1.34.4
# What must be there, and the Debian package that has it. By file and not by package: a machine with Docker has another
# package's containerd, and replacing that would take Docker away.
NEEDS=(containerd:containerd runc:runc etcd:etcd-server nft:nftables iptables:iptables ip:iproute2 openssl:openssl
  conntrack:conntrack pgrep:procps unshare:util-linux mkfs.ext4:e2fsprogs /etc/ssl/certs/ca-certificates.crt:ca-certificates)

build() {
  packages
  mkdir -p "$BIN"
  local stamp
  stamp=$(cd "$HERE" && cat go.mod go.sum tools.go coredns/main.go pause/main.go lib/build.sh | sha256sum)
  [ "$(cat "$BIN/.stamp" 2>/dev/null)" = "$stamp" ] && return 0
  go_toolchain
  say "compiling Kubernetes $K8S_VERSION, CoreDNS and helm into $BIN: once, 10 to 15 minutes on two cores"
  local version=k8s.io/component-base/version
  # What a debugger needs is left out where packages are compiled, not only where they are linked.
  (cd "$HERE" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=auto go build -trimpath -gcflags=all=-dwarf=false \
    -ldflags "-s -w -X $version.gitVersion=$K8S_VERSION -X $version.gitMajor=1 -X $version.gitMinor=34" -o "$BIN/" \
    k8s.io/kubernetes/cmd/kube-{apiserver,controller-manager,scheduler,proxy} k8s.io/kubernetes/cmd/kube{let,ctl} \
    ./coredns helm.sh/helm/v3/cmd/helm) 9>&-
  (cd "$HERE/pause" && CGO_ENABLED=0 GO111MODULE=off go build -trimpath -ldflags "-s -w" -o "$BIN/pause" main.go) 9>&-
  pause_image
  echo "$stamp" >"$BIN/.stamp"
}

# Every pod's first container, which only holds its namespaces.
pause_image() {
  local root
  root=$(mktemp -d)
  chmod 0755 "$root"
  cp "$BIN/pause" "$root/pause"
  "$HERE/../../images/oci-archive" "$BIN/pause.tar" "$root" --name localhost/pause:1 --config '{"Entrypoint":["/pause"]}'
  rm -r "$root"
}

# Where the CNI plugins are: Debian's place, or everyone else's.
cni_plugins() {
  local dir
  for dir in /usr/lib/cni /opt/cni/bin; do
    [ ! -x $dir/bridge ] || [ ! -x $dir/host-local ] || { echo $dir && return 0; }
  done
  return 1
}

packages() {
  local need packages=() things=()
  for need in "${NEEDS[@]}"; do
    [ -e "${need%:*}" ] || command -v "${need%:*}" >/dev/null || packages+=("${need#*:}") things+=("${need%:*}")
  done
  cni_plugins >/dev/null || packages+=(containernetworking-plugins) things+=("the CNI plugins bridge and host-local")
  [ ${#packages[@]} != 0 ] || return 0
  command -v apt-get >/dev/null || die "this is no Debian or Ubuntu, so please install what has these: ${things[*]}"
  say "installing Debian packages: ${packages[*]}"
  "$HERE/../apt" "${packages[@]}" 9>&- || die "apt-get could not install: ${packages[*]}"
}

# Any Go from 1.21 on will do: it fetches the version that go.mod names, as a Go module.
go_is_enough() { # GO
  local v
  v=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n' 1.21 "${v#go}" | sort -V | head -n 1)" = 1.21 ]
}

go_toolchain() {
  local go
  for go in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go-1.*/bin/go; do
    if [ -x "$go" ] && go_is_enough "$go"; then
      export PATH=${go%/*}:$PATH
      return 0
    fi
  done
  go_from_debian && go_toolchain && return 0
  die "needs Go 1.21 or newer to compile Kubernetes; install it from https://go.dev/dl/ into /usr/local/go"
}

# The newest Go of the distribution or its backports. The machine's own package sources stay as they are.
go_from_debian() {
  command -v apt-get >/dev/null || return 1
  # shellcheck disable=SC1091 # the machine's own file
  . /etc/os-release
  local name dir=$HOME_DIR/apt uri options=()
  mkdir -p "$dir/lists/partial"
  # shellcheck disable=SC2016 # apt's own variables
  uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk -v c="${VERSION_CODENAME:-none}" '$2 == c {print $1; exit}')
  if [ "${ID:-}" = debian ] && [ -n "$uri" ]; then
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $VERSION_CODENAME-backports main" \
      >"$dir/backports.list"
    options=(-o "Dir::Etc::SourceList=$dir/backports.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$dir/lists")
    apt-get "${options[@]}" update -q >/dev/null 9>&- || options=()
  fi
  name=$(apt-cache "${options[@]}" -n search '^golang-1\.[0-9]+-go$' | awk '{print $1}' | sort -V | tail -n 1)
  [ -n "$name" ] || return 1
  [ "$(printf '%s\n' golang-1.21-go "$name" | sort -V | head -n 1)" = golang-1.21-go ] || return 1
  say "installing $name"
  "$HERE/../apt" "${options[@]}" "$name" 9>&-
}
