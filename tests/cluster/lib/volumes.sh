# shellcheck shell=bash
# Volumes of a fixed size: ext4 on a file, mounted within the node, offered as `local` PersistentVolumes. A hostPath volume
# would ignore both size and fsGroup.

volume() { # NAME SIZE [ACCESS-MODE [NAMESPACE CLAIM]]: for any claim, or for that one
  local name=$1 size=$2 mode=${3:-ReadWriteOnce} bytes dir=$STATE/volumes
  node_alive || die "not running: cluster up"
  [[ $name =~ ^[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?$ ]] || die "'$name' is no name for a volume: small letters, digits and dashes"
  case $mode in
  ReadWriteOnce | ReadWriteOncePod) ;;
  *) die "'$mode' is no access mode of a local volume: ReadWriteOnce or ReadWriteOncePod" ;;
  esac
  bytes=$(numfmt --from=auto "$size" 2>/dev/null) || die "'$size' is no size: say 64Mi or 1Gi"
  [ "$bytes" -ge $((8 << 20)) ] || die "$size is too small for ext4 with a journal: 8Mi at least"
  [ ! -e "$dir/$name.img" ] || die "volume $name exists"
  {
    truncate -s "$bytes" "$dir/$name.img" && mkfs.ext4 -q -F -m 0 "$dir/$name.img" && mkdir "$dir/$name" &&
      enter mount -o loop "$dir/$name.img" "$dir/$name" && kube apply -f - >/dev/null <<YAML
apiVersion: v1
kind: PersistentVolume
metadata:
  name: $name
  labels: {app.kubernetes.io/managed-by: codexstore-cluster}
spec:
  capacity: {storage: $size}
  accessModes: [$mode]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: codexstore-local
  ${5:+claimRef: {namespace: $4, name: $5\}}
  local: {path: $dir/$name}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE]}]}]
YAML
  } || volume_undo "$name"
}

volume_undo() { # NAME: takes away what was begun of a volume, and fails
  local name=$1 dir=$STATE/volumes
  kube delete persistentvolume "$name" --ignore-not-found --wait=false >/dev/null || true
  enter umount "$dir/$name" 2>/dev/null || true
  rmdir "$dir/$name" 2>/dev/null || true
  rm -f "$dir/$name.img"
  die "volume $name was not made"
}

# Makes a volume for each claim of class codexstore-local that has none, of the very size that it asks for. Runs in the
# node's namespaces.
provision() {
  enter() { "$@"; }
  node_alive() { :; }
  local namespace claim uid phase class size mode fields
  fields='{.metadata.namespace} {.metadata.name} {.metadata.uid} {.status.phase} {.spec.storageClassName} '
  fields+='{.spec.resources.requests.storage} {.spec.accessModes[0]}'
  while :; do
    # With --watch each claim is an object of its own: first those that are there, then each change.
    kube get persistentvolumeclaims -A --watch -o jsonpath="$fields{\"\\n\"}" |
      while read -r namespace claim uid phase class size mode; do
        [ "$phase $class" = "Pending codexstore-local" ] || continue
        for _ in 1 2 3; do
          if reserved "$namespace/$claim" "$uid"; then break; fi
          # In the background, since behind a plain `||` bash would ignore `set -e` within.
          volume "pvc-$uid" "$size" "$mode" "$namespace" "$claim" &
          if wait $!; then break; fi
          say "no volume for $namespace/$claim"
          sleep 1
        done
      done
    sleep 1
  done
}

reserved() { # NAMESPACE/CLAIM UID: a volume is kept for it already; one that an earlier claim of that name left is not
  local fields='{.spec.claimRef.namespace}/{.spec.claimRef.name} {.spec.claimRef.uid}{"\n"}'
  kube get persistentvolumes -o jsonpath="{range .items[*]}$fields{end}" | grep -qxF -e "$1 " -e "$1 $2"
}

volume_rm() { # NAME
  local name=$1 dir=$STATE/volumes
  node_alive || die "not running: cluster up"
  [ -e "$dir/$name.img" ] || die "no volume $name"
  kube delete persistentvolume "$name" --ignore-not-found --wait=false >/dev/null
  enter umount "$dir/$name" || die "volume $name is in use: delete the pods that use it first"
  rmdir "$dir/$name"
  rm "$dir/$name.img"
}
