# shellcheck shell=bash
# Volumes of a fixed size: ext4 on a file, mounted within the node, offered as `local` PersistentVolumes. A hostPath volume
# would ignore both size and fsGroup.

volume() { # NAME SIZE
  local name=$1 size=$2 bytes dir=$STATE/volumes
  node_alive || die "not running: cluster up"
  [[ $name =~ ^[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?$ ]] || die "'$name' is no name for a volume: small letters, digits and dashes"
  bytes=$(numfmt --from=iec-i "$size" 2>/dev/null) || die "'$size' is no size: say 64Mi or 1Gi"
  [ "$bytes" -ge $((8 << 20)) ] || die "$size is too small for ext4 with a journal: 8Mi at least"
  [ ! -e "$dir/$name.img" ] || die "volume $name exists"
  truncate -s "$bytes" "$dir/$name.img"
  mkfs.ext4 -q -F -m 0 "$dir/$name.img"
  mkdir "$dir/$name"
  enter mount -o loop "$dir/$name.img" "$dir/$name"
  kube apply -f - >/dev/null <<YAML
apiVersion: v1
kind: PersistentVolume
metadata:
  name: $name
  labels: {app.kubernetes.io/managed-by: codexstore-cluster}
spec:
  capacity: {storage: $size}
  accessModes: [ReadWriteOnce, ReadWriteOncePod]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: codexstore-local
  local: {path: $dir/$name}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE]}]}]
YAML
}

volumes() { # N SIZE: adds N
  local n=$1 size=$2 i=0
  [[ $n =~ ^[1-9][0-9]?$ ]] || die "'$n' is no number from 1 to 99"
  while ((n > 0)); do
    i=$((i + 1))
    [ -e "$STATE/volumes/any-${size,,}-$i.img" ] && continue
    volume "any-${size,,}-$i" "$size"
    n=$((n - 1))
  done
}

volume_rm() { # NAME
  local name=$1 dir=$STATE/volumes
  [ -e "$dir/$name.img" ] || die "no volume $name"
  kube delete persistentvolume "$name" --ignore-not-found --wait=false >/dev/null
  enter umount "$dir/$name" || die "volume $name is in use: delete the pods that use it first"
  rmdir "$dir/$name"
  rm "$dir/$name.img"
}
